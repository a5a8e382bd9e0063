// The runner of nas/devices/wasm in Node: reads a JSON request per line from stdin, writes a JSON answer per line to
// stdout. Arguments: the folder onnxruntime-web/dist, and the description of the machine as JSON.

import { Console } from "node:console";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

import { answering } from "./runner.mjs";

globalThis.console = new Console(process.stderr); // Stdout is for answers only, so the log goes to stderr.

const [dist, machine] = process.argv.slice(2);
const answer = answering({
  dist: pathToFileURL(dist + "/").href,
  module: "ort.node.min.mjs",
  machine: JSON.parse(machine),
  engine: async () => ({ node: process.versions.node }),
  read: readFile,
});
try {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n");
  }
  process.exit(); // Threads of the runtime would keep the process alive.
} catch (error) {
  console.error(String(error)); // One line without a stack trace: users see the last line.
  process.exit(1);
}
