// Holds bodies against a JSON Schema of rowhook types with a validator of 2020-12 that checks
// formats too. Arguments: the folder of node_modules, the schema, a file with a body a line. It
// prints, for each body, whether the schema takes it, and which of its definitions do.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [modules, schemaFile, bodies] = process.argv.slice(2);
const require = createRequire(modules + "/");
const Ajv = require("ajv/dist/2020").default;
const schema = JSON.parse(readFileSync(schemaFile, "utf8"));
const ajv = new Ajv({ allErrors: true, strictTypes: false });
require("ajv-formats")(ajv);
ajv.addKeyword("x-rowhook-format");
schema.$id = "events";
ajv.addSchema(schema);
const whole = ajv.getSchema("events");
const defs = Object.keys(schema.$defs).map((name) => [name, ajv.getSchema("events#/$defs/" + encodeURIComponent(name))]);
for (const line of readFileSync(bodies, "utf8").split("\n")) {
  if (line === "") continue;
  const body = JSON.parse(line);
  const own = defs.find(([name]) => name === body.type + "@" + body.version);
  own[1](body);
  const errors = (own[1].errors ?? []).map((e) => `${e.instancePath} ${e.message}`);
  console.log(JSON.stringify({ valid: whole(body), of: defs.filter(([, is]) => is(body)).map(([name]) => name), errors }));
}
