// Reads an AsyncAPI document with the official parser. Arguments: the folder of node_modules, the
// document. It prints version, messages and the properties of each payload; an error ends it with 1.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, file] = process.argv.slice(2);
const { Parser } = createRequire(modules + "/")("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
const errors = diagnostics.filter((d) => d.severity === 0);
if (!document || errors.length > 0) {
  console.error(JSON.stringify(errors, null, 2));
  process.exit(1);
}
const messages = {};
for (const m of document.operations().all()[0].messages().all()) {
  messages[m.name()] = Object.keys(m.payload().properties());
}
console.log(JSON.stringify({ version: document.version(), messages }));
