// Assign objects to particles with a model that hepset exported (layout hepset).
//
//   assign MODEL.onnx STREAM OUTPUT... < EVENTS
//
// EVENTS holds one object per line, its features in the order of the model's contract; an empty
// line ends an event. Each OUTPUT, such as assignment/t1, is printed per event, with its probability.

#if __has_include(<onnxruntime_c_api.h>)
#include <onnxruntime_c_api.h>
#else
#include "onnxruntime_abi.h"
#endif

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using Event = std::vector<std::vector<float>>;

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// The library is opened when it is needed, so that any copy will do: ONNXRUNTIME names one.
void open_library() {
  const char* named = std::getenv("ONNXRUNTIME");
  void* library = dlopen(named != nullptr ? named : "libonnxruntime.so.1", RTLD_NOW);
  if (library == nullptr) throw std::runtime_error(dlerror());
  using Base = const OrtApiBase* (*)();
  const auto base = reinterpret_cast<Base>(dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) throw std::runtime_error("this library is not ONNX Runtime");
  api = base()->GetApi(ORT_API_VERSION);
  if (api == nullptr) throw std::runtime_error("this ONNX Runtime is older than its header");
}

std::vector<Event> read_events(std::istream& in) {
  std::vector<Event> events;
  bool open = false;
  for (std::string line; std::getline(in, line);) {
    std::istringstream numbers(line);
    std::vector<float> object;
    for (float value; numbers >> value;) object.push_back(value);
    if (object.empty()) {
      open = false;
      continue;
    }
    if (!open) events.emplace_back();
    open = true;
    events.back().push_back(object);
  }
  return events;
}

struct Output {
  OrtValue* value = nullptr;
  int64_t per_event = 1;

  template <class T>
  const T* data() const {
    void* found = nullptr;
    check(api->GetTensorMutableData(value, &found));
    return static_cast<const T*>(found);
  }
};

Output describe(OrtValue* value) {
  OrtTensorTypeAndShapeInfo* shape = nullptr;
  check(api->GetTensorTypeAndShape(value, &shape));
  size_t count = 0;
  check(api->GetDimensionsCount(shape, &count));
  std::vector<int64_t> sizes(count);
  check(api->GetDimensions(shape, sizes.data(), count));
  api->ReleaseTensorTypeAndShapeInfo(shape);
  Output output{value};
  for (size_t axis = 1; axis < count; ++axis) output.per_event *= sizes[axis];
  return output;
}

void run(const std::string& model, const std::string& stream, const std::vector<std::string>& outputs) {
  const std::vector<Event> events = read_events(std::cin);
  if (events.empty()) throw std::runtime_error("no event was given");
  const auto count = static_cast<int64_t>(events.size());
  const auto features = static_cast<int64_t>(events[0][0].size());
  int64_t slots = 0;
  for (const Event& event : events) slots = std::max<int64_t>(slots, event.size());

  // Events are padded to the largest; the mask says which slots are real.
  std::vector<float> data(count * slots * features, 0.0f);
  const auto mask = std::make_unique<bool[]>(count * slots);
  for (int64_t row = 0; row < count; ++row) {
    for (size_t slot = 0; slot < events[row].size(); ++slot) {
      const std::vector<float>& object = events[row][slot];
      if (static_cast<int64_t>(object.size()) != features)
        throw std::runtime_error("objects have different numbers of features");
      std::copy(object.begin(), object.end(), data.begin() + (row * slots + slot) * features);
      mask[row * slots + slot] = true;
    }
  }

  OrtEnv* environment = nullptr;
  OrtSessionOptions* options = nullptr;
  OrtSession* session = nullptr;
  OrtMemoryInfo* memory = nullptr;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "assign", &environment));
  check(api->CreateSessionOptions(&options));
  check(api->SetIntraOpNumThreads(options, 1));
  check(api->CreateSession(environment, model.c_str(), options, &session));
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

  const int64_t data_shape[] = {count, slots, features}, mask_shape[] = {count, slots};
  OrtValue* inputs[2] = {nullptr, nullptr};
  check(api->CreateTensorWithDataAsOrtValue(memory, data.data(), data.size() * sizeof(float),
                                            data_shape, 3, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                            &inputs[0]));
  check(api->CreateTensorWithDataAsOrtValue(memory, mask.get(), count * slots * sizeof(bool),
                                            mask_shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
                                            &inputs[1]));

  const std::string mask_name = stream + ".mask";
  const char* input_names[] = {stream.c_str(), mask_name.c_str()};
  std::vector<std::string> names;
  for (const std::string& output : outputs) {
    names.push_back(output);
    names.push_back(output + "/probability");
  }
  std::vector<const char*> output_names;
  for (const std::string& name : names) output_names.push_back(name.c_str());
  std::vector<OrtValue*> values(names.size(), nullptr);
  check(api->Run(session, nullptr, input_names, inputs, 2, output_names.data(), names.size(),
                 values.data()));

  for (int64_t row = 0; row < count; ++row) {
    std::cout << "event " << row << '\n';
    for (size_t number = 0; number < outputs.size(); ++number) {
      const Output chosen = describe(values[2 * number]);
      const Output probability = describe(values[2 * number + 1]);
      std::cout << "  " << outputs[number];
      for (int64_t product = 0; product < chosen.per_event; ++product)
        std::cout << ' ' << chosen.data<int64_t>()[row * chosen.per_event + product];
      std::cout << "  " << probability.data<float>()[row] << '\n';
    }
  }

  for (OrtValue* value : values) api->ReleaseValue(value);
  for (OrtValue* value : inputs) api->ReleaseValue(value);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  api->ReleaseEnv(environment);
}

int main(int count, char** arguments) {
  if (count < 4) {
    std::cerr << "usage: assign MODEL.onnx STREAM OUTPUT... < EVENTS\n";
    return 2;
  }
  try {
    open_library();
    run(arguments[1], arguments[2], {arguments + 3, arguments + count});
  } catch (const std::exception& problem) {
    std::cerr << "assign: " << problem.what() << '\n';
    return 1;
  }
}
