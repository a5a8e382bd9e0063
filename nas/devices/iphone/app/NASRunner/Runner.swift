// Times Core ML models on the phone: a folder with a manifest in, a file with one JSON line for each job out.
//
// nas/devices/iphone copies Documents/nas/BATCH to the phone, which holds compiled models and manifest.json, and
// launches the app with the arguments `measure BATCH FIRST`. The app appends to Documents/nas/BATCH/results.jsonl:
//
//     {"started": 3}
//     {"job": 3, "times_ms": [...], "output": BASE64, "facts": {...}}      or {"job": 3, "failure": REASON}
//     {"end": true}
//
// and says on its standard output how far it is. It then stays in front, so that the screen remains awake until the
// next batch. With the argument `clean` it removes Documents/nas and ends.

import CoreML
import Foundation

/// A batch of jobs, as nas/devices/iphone writes it.
struct Manifest: Decodable {
    struct Job: Decodable {
        /// Path of an .mlmodelc below the manifest's folder.
        let model: String
        let shape: [Int]
        let durationMs: Double
        let minimumRuns: Int
        let maximumRuns: Int
        /// Whether to report elements of the output.
        let output: Bool
    }

    let computeUnits: String
    let jobs: [Job]
}

/// What came of one job.
struct Answer: Encodable {
    let job: Int
    var timesMs: [Double]?
    var output: String?
    var facts: [String: String]?
    var failure: String?
}

struct RunnerError: Error, CustomStringConvertible {
    let description: String
}

/// Do what the arguments say; every end but that of `measure` ends the app.
func obey(_ arguments: [String]) async {
    // When the Mac hangs up, a line for it must not end the app.
    signal(SIGPIPE, SIG_IGN)
    let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]
    let root = documents.appendingPathComponent("nas", isDirectory: true)
    do {
        switch arguments.first {
        case "clean":
            if FileManager.default.fileExists(atPath: root.path) {
                try FileManager.default.removeItem(at: root)
            }
            exit(0)
        case "measure":
            guard arguments.count == 3, let first = Int(arguments[2]), first >= 0 else {
                throw RunnerError(description: "expected: measure BATCH FIRST")
            }
            try await measure(batch: arguments[1], from: first, below: root)
            say("nas: end")
        default:
            say("nas: nothing to do")
        }
    } catch {
        say("nas: error: \(reason(error))")
        exit(1)
    }
}

/// Do the jobs of a batch from number `first` on.
func measure(batch: String, from first: Int, below root: URL) async throws {
    // Models and results of earlier batches have been fetched, or nobody will.
    for name in try FileManager.default.contentsOfDirectory(atPath: root.path) where name != batch {
        try FileManager.default.removeItem(at: root.appendingPathComponent(name))
    }
    let folder = root.appendingPathComponent(batch, isDirectory: true)
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let content = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
    let manifest = try decoder.decode(Manifest.self, from: content)
    let units = try computeUnits(manifest.computeUnits)
    let results = try Results(at: folder.appendingPathComponent("results.jsonl"))
    for (index, job) in manifest.jobs.enumerated().dropFirst(first) {
        try results.append(["started": index])
        say("nas: job \(index)")
        let model = folder.appendingPathComponent(job.model, isDirectory: true)
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units
        var answer = Answer(job: index)
        do {
            try time(job, model: model, configuration: configuration, into: &answer)
            answer.facts = await facts(of: model, configuration: configuration)
        } catch {
            answer = Answer(job: index, failure: reason(error))
        }
        try results.append(answer)
    }
    try results.append(["end": true])
}

/// Load a model, run it back to back and note the time of every run, the first included.
///
/// It is no `async` function, since Core ML would then take its asynchronous prediction, which costs more a call.
func time(_ job: Manifest.Job, model: URL, configuration: MLModelConfiguration, into answer: inout Answer) throws {
    let loaded = try MLModel(contentsOf: model, configuration: configuration)
    guard let inputName = loaded.modelDescription.inputDescriptionsByName.keys.first,
        let outputName = loaded.modelDescription.outputDescriptionsByName.keys.first
    else {
        throw RunnerError(description: "the model has no input or no output")
    }
    let array = try exampleInput(job.shape)
    let input = try MLDictionaryFeatureProvider(dictionary: [inputName: MLFeatureValue(multiArray: array)])
    var nanoseconds: [UInt64] = []
    nanoseconds.reserveCapacity(job.maximumRuns)
    var total: UInt64 = 0
    let limit = UInt64(job.durationMs * 1e6)
    var output: MLMultiArray?
    while nanoseconds.count < job.maximumRuns && (total < limit || nanoseconds.count < job.minimumRuns) {
        try autoreleasepool {
            let start = DispatchTime.now().uptimeNanoseconds
            let prediction = try loaded.prediction(from: input)
            let taken = DispatchTime.now().uptimeNanoseconds - start
            nanoseconds.append(taken)
            total += taken
            output = prediction.featureValue(for: outputName)?.multiArrayValue
        }
    }
    answer.timesMs = nanoseconds.map { Double($0) / 1e6 }
    if job.output {
        guard let output else {
            throw RunnerError(description: "the output \(outputName) is no array")
        }
        answer.output = try sampled(output).base64EncodedString()
    }
}

/// Element i is the fractional part of i times the golden ratio, as in nas/networks/modules/network.py.
func exampleInput(_ shape: [Int]) throws -> MLMultiArray {
    let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: .float16)
    array.withUnsafeMutableBytes { bytes, strides in
        for index in 0..<shape.reduce(1, *) {
            let value = (Double(index) * 0.6180339887498949).truncatingRemainder(dividingBy: 1)
            let offset = position(of: index, shape: shape, strides: strides)
            // By way of Float, as torch and NumPy go: two roundings are not always one.
            bytes.storeBytes(of: Float16(Float(value)), toByteOffset: 2 * offset, as: Float16.self)
        }
    }
    return array
}

/// Every n-th element as little-endian float32, n = max(1, count / 4096), as `sampled` in nas/devices/__init__.py.
func sampled(_ array: MLMultiArray) throws -> Data {
    guard array.dataType == .float16 else {
        throw RunnerError(description: "the output is not float16")
    }
    let shape = array.shape.map { $0.intValue }
    // The Neural Engine pads its rows: what is next in memory may be no element.
    let strides = array.strides.map { $0.intValue }
    let count = shape.reduce(1, *)
    var values = Data()
    array.withUnsafeBytes { bytes in
        for index in stride(from: 0, to: count, by: max(1, count / 4096)) {
            let offset = position(of: index, shape: shape, strides: strides)
            let value = Float(bytes.loadUnaligned(fromByteOffset: 2 * offset, as: Float16.self))
            withUnsafeBytes(of: value.bitPattern.littleEndian) { values.append(contentsOf: $0) }
        }
    }
    return values
}

/// Where element `index`, counted row by row, lies in memory.
func position(of index: Int, shape: [Int], strides: [Int]) -> Int {
    var rest = index
    var offset = 0
    for axis in shape.indices.reversed() {
        offset += rest % shape[axis] * strides[axis]
        rest /= shape[axis]
    }
    return offset
}

/// What else bears on the times; a phone that cannot tell of the placement leaves it out.
func facts(of model: URL, configuration: MLModelConfiguration) async -> [String: String] {
    let process = ProcessInfo.processInfo
    var facts = [
        "thermal_state": name(of: process.thermalState),
        "low_power_mode": process.isLowPowerModeEnabled ? "on" : "off",
    ]
    if #available(iOS 17.4, *), let placement = try? await placement(of: model, configuration: configuration) {
        facts.merge(placement) { first, _ in first }
    }
    return facts
}

/// How many operations run where, and the names of those that leave the Neural Engine.
@available(iOS 17.4, *)
func placement(of model: URL, configuration: MLModelConfiguration) async throws -> [String: String] {
    let plan = try await MLComputePlan.load(contentsOf: model, configuration: configuration)
    guard case .program(let program) = plan.modelStructure, let function = program.functions["main"] else {
        return [:]
    }
    var processors: [String: Int] = [:]
    var elsewhere: [String: Int] = [:]
    for operation in function.block.operations {
        // Constants run nowhere.
        guard let usage = plan.deviceUsage(for: operation) else { continue }
        let processor = name(of: usage.preferred)
        processors[processor, default: 0] += 1
        if processor != "NeuralEngine" {
            // Such as conv for ios16.conv.
            elsewhere[operation.operatorName.components(separatedBy: ".").last ?? "", default: 0] += 1
        }
    }
    return ["placement": counted(processors), "off_neural_engine": counted(elsewhere)]
}

@available(iOS 17.4, *)
func name(of device: MLComputeDevice) -> String {
    switch device {
    case .cpu: return "CPU"
    case .gpu: return "GPU"
    case .neuralEngine: return "NeuralEngine"
    @unknown default: return "other"
    }
}

func name(of state: ProcessInfo.ThermalState) -> String {
    switch state {
    case .nominal: return "nominal"
    case .fair: return "fair"
    case .serious: return "serious"
    case .critical: return "critical"
    @unknown default: return "unknown"
    }
}

/// Such as `conv 4, add 1`: the most frequent first.
func counted(_ counts: [String: Int]) -> String {
    counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
}

func computeUnits(_ name: String) throws -> MLComputeUnits {
    switch name {
    case "all": return .all
    case "cpu_and_ne": return .cpuAndNeuralEngine
    case "cpu_and_gpu": return .cpuAndGPU
    case "cpu_only": return .cpuOnly
    default: throw RunnerError(description: "no compute units named \(name)")
    }
}

/// The file of results: each line is on the disk before the next job begins.
final class Results {
    private let handle: FileHandle
    private let encoder = JSONEncoder()

    init(at url: URL) throws {
        encoder.keyEncodingStrategy = .convertToSnakeCase
        if !FileManager.default.fileExists(atPath: url.path) {
            try Data().write(to: url)
        }
        handle = try FileHandle(forWritingTo: url)
        if try handle.seekToEnd() > 0 {
            // An app that was ended in the midst of a line has left half of it.
            try handle.write(contentsOf: Data("\n".utf8))
        }
    }

    func append<Line: Encodable>(_ line: Line) throws {
        try handle.write(contentsOf: encoder.encode(line) + Data("\n".utf8))
        try handle.synchronize()
    }
}

/// A line for devicectl's console; nothing depends on its arrival.
func say(_ text: String) {
    try? FileHandle.standardOutput.write(contentsOf: Data((text + "\n").utf8))
}

func reason(_ error: Error) -> String {
    let text = (error as? RunnerError)?.description ?? error.localizedDescription
    return text.components(separatedBy: "\n").first ?? text
}
