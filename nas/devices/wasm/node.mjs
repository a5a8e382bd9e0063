// Runner for nas/devices/wasm.py in Node: one JSON request a line on stdin, one JSON answer a line on stdout.
// Arguments: the folder onnxruntime-web/dist, and what to say of the machine as JSON.

import { Console } from "node:console";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

import { answering } from "./runner.mjs";

globalThis.console = new Console(process.stderr); // What the runtime logs is no answer.

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
  process.exit(); // Threads of the runtime would keep it alive.
} catch (error) {
  console.error(String(error)); // one line, and no stack: the last line is what users see
  process.exit(1);
}
