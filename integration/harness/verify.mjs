// Verifies webhooks with the JavaScript library of Standard Webhooks. Standard input has one JSON
// object a line: {secret, headers, body}. The exit code is 1 at the first that is not as it should be.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.argv[2] + "/");
const { Webhook } = require("standardwebhooks");

let n = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(body, headers);
  } catch (err) {
    console.error(`${headers["webhook-id"]}: ${err.message}`);
    process.exit(1);
  }
  n++;
}
console.log(n);
