// Times ONNX models with ONNX Runtime Web. The runner in Node and the page in Chromium share this file.
// The requests and answers are those of nas/devices/_runner.py.

const GOLDEN = 0.6180339887498949; // as in nas/networks/modules/network.py
const SAMPLES = 4096; // as in nas/devices/__init__.py

// Returns the function that answers requests.
//   dist: URL of the package's folder of that name, with a slash at its end
//   module: the file in it to import
//   machine: model and os, which a page cannot find out
//   engine: returns a promise of the name and version of the WebAssembly engine
//   read: returns a promise of the bytes of a model file
export function answering({ dist, module, machine, engine, read }) {
  const load = async (threads) => {
    const ort = await import(dist + module);
    ort.env.wasm.wasmPaths = dist;
    ort.env.wasm.numThreads = threads;
    return ort;
  };
  const operations = {
    describe: async () => {
      const ort = await load(1);
      return { ...machine, versions: { "onnxruntime-web": ort.env.versions.web, ...(await engine()) } };
    },
    time: async (request) => measure(await load(request.threads), await read(request.model), request),
  };
  return async (request) => {
    try {
      return await operations[request.op](request);
    } catch (error) {
      // After a trap, the runtime's memory can be in any state. So it can after a C++ exception, which is a number here.
      if (!(error instanceof Error) || error instanceof WebAssembly.RuntimeError) throw error;
      return { failure: error.message.split("\n")[0] || error.name };
    }
  };
}

async function measure(ort, model, request) {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  try {
    // Without shared memory, the runtime warns and uses one thread.
    if (ort.env.wasm.numThreads !== request.threads) {
      throw new Error(`asked for ${request.threads} threads, got ${ort.env.wasm.numThreads}`);
    }
    const feeds = { [session.inputNames[0]]: new ort.Tensor("float32", example(request.shape), request.shape) };
    const times = [];
    let total = 0;
    let outputs;
    while (
      times.length < request.maximum_runs &&
      (total < request.duration_ms || times.length < request.minimum_runs)
    ) {
      const start = performance.now();
      outputs = await session.run(feeds);
      const taken = performance.now() - start;
      times.push(taken);
      total += taken;
    }
    const answer = { times_ms: times };
    if (request.output) answer.output = base64(sampled(outputs[session.outputNames[0]].data));
    return answer;
  } finally {
    await session.release(); // The runtime's memory is not garbage collected.
  }
}

function example(shape) {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  for (let i = 0; i < values.length; i++) values[i] = (i * GOLDEN) % 1;
  return values;
}

function sampled(values) {
  const step = Math.max(1, Math.floor(values.length / SAMPLES));
  return Float32Array.from({ length: Math.ceil(values.length / step) }, (_, i) => values[i * step]);
}

function base64(values) {
  return btoa(String.fromCharCode(...new Uint8Array(values.buffer)));
}
