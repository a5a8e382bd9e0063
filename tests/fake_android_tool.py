"""A fake onnxruntime_perf_test or benchmark_model for tests, which the fake phone of fake_adb.py runs.

`$FAKE_PHONE/tool.json` says how it behaves: `run_ms` is the time of a run; `said`, `result` and `code` replace what it
prints, writes and ends with; `heats` is the thermal state that it leaves; `hangs` and `signal` are what they say.
Where there is a file `$FAKE_PHONE/unlinked`, it does not even start.

It is started a hundred times in a run of the tests, so it imports little.
"""

# ruff: noqa: PTH110, PTH123, PTH202, T201

import os
import sys
import time

PHONE = os.environ["FAKE_PHONE"]
MODELS = ("model.onnx", "model.tflite")  # only one of them is there


def main(arguments):
    if os.path.exists(f"{PHONE}/unlinked"):
        print(
            'CANNOT LINK EXECUTABLE "./runner": library "libonnxruntime.so" not found: needed by main executable',
            file=sys.stderr,
        )
        return 1
    if arguments == ["--help"]:
        print("perf_test [options...] model_path [result_file]")
        return 255
    import json

    with open(f"{PHONE}/tool.json") as file:
        behaviour = json.load(file)
    with open(f"{PHONE}/tool.calls", "a") as calls:
        calls.write(json.dumps({"arguments": arguments, "mask": os.environ.get("FAKE_MASK")}) + "\n")
    with open(f"{PHONE}/running", "w") as running:
        running.write(str(os.getpid()))
    with open(f"{PHONE}/size") as size:
        if sum(os.path.getsize(name) for name in MODELS if os.path.exists(name)) != int(size.read()):
            print("Load model from model.onnx failed:Protobuf parsing failed.", file=sys.stderr)
            return 255
    if "heats" in behaviour:
        with open(f"{PHONE}/thermal", "w") as thermal:
            thermal.write(behaviour["heats"])
    if behaviour.get("hangs"):
        time.sleep(60)
    if "signal" in behaviour:
        os.kill(os.getpid(), behaviour["signal"])
    if "said" in behaviour:
        print(behaviour["said"])
        if "result" in behaviour:
            with open("result", "w") as result:
                result.write(behaviour["result"])
        return behaviour.get("code", 0)
    return perf_test(arguments, behaviour["run_ms"] / 1000)


def perf_test(arguments, run_s):
    """The layout of ONNX Runtime 1.20: in the file a line for each run, then the statistics."""
    model, result = arguments[-2:]
    runs = int(arguments[arguments.index("-r") + 1])
    seconds = [run_s * (1 + 0.001 * index) for index in range(runs)]
    with open(result, "a") as file:
        for index, value in enumerate(seconds):
            file.write(f"{model},{value:.6g},41234432,25,{index}\n")
        file.write(f"\nMin Latency: {seconds[0]:.6g} s\nP50 Latency: {seconds[runs // 2]:.6g} s\n")
    print("Session creation time cost: 0.0102016 s\nFirst inference time cost: 2 ms")
    print(f"Total inference time cost: {sum(seconds):.6g} s\nTotal inference requests: {runs}")
    print(f"Average inference time cost: {sum(seconds) / runs * 1000:.6g} ms")
    return 0


sys.exit(main(sys.argv[1:]))
