// bench.
#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "bench/bench.h"
#include "bench/peak.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "plan/planner.h"
#include "util/error.h"
#include "util/files.h"
#include "util/machine.h"

namespace attune::cli {
namespace {

// A model directory that goes when the command ends.
class ShapeDirectory {
 public:
  explicit ShapeDirectory(const char* config) {
    std::string path = (fs::temp_directory_path() / "attune-bench-XXXXXX").string();
    if (!::mkdtemp(path.data())) fail("cannot make a directory in {}", fs::temp_directory_path().string());
    path_ = path;
    write_file_atomic(path_ / "config.json", config);
  }
  ~ShapeDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

// The shape of Qwen2.5-0.5B.
constexpr const char* kShape = R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
  "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768,
  "rope_theta": 1000000.0, "rms_norm_eps": 1e-06, "hidden_act": "silu", "tie_word_embeddings": true, "torch_dtype": "bfloat16"})";

bool gives(const std::vector<std::string>& arguments, const std::string& key) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& a) { return a.starts_with(key + "="); });
}

bool names_file(const std::vector<std::string>& arguments) {
  return !arguments.empty() && arguments[0].find('=') == std::string::npos;
}

}  // namespace

int bench(const BenchArgs& args) {
  const ShapeDirectory shape(kShape);
  std::vector<std::string> arguments = args.run.arguments;
  const auto by_default = [&](const std::string& key, const std::string& value) {
    if (!gives(arguments, key)) arguments.push_back(key + "=" + value);
  };
  if (!names_file(arguments)) {  // a file says all of this itself, or leaves it at what training does
    by_default("model_name_or_path", shape.path());
    by_default("finetuning_type", "full");
    by_default("cutoff_len", "512");
    by_default("per_device_train_batch_size", "4");
    if (!gives(arguments, "pure_bf16") && !gives(arguments, "fp16")) by_default("bf16", bench::bf16_registers(0.001) > 0 ? "true" : "false");
  }
  train::Config config = read_config(arguments, false);
  config.dataset.clear();
  const train::RunSetup setup = train::prepare_without_data(config);
  const plan::Plan plan = plan::make_plan(setup, nullptr);
  if (!plan.fits())
    refuse("this step needs {} but {} are available: try pure_bf16=true, optim=adafactor optimizer_in_backward=true, a smaller "
           "per_device_train_batch_size, or a smaller model with model_name_or_path=DIR", format_bytes(plan.peak_bytes()), format_bytes(plan.available_bytes));
  const bench::Result result = bench::run(setup, args.steps);
  fmt::print("{}", args.run.json ? bench::result_json(result) + "\n" : bench::result_text(result));
  return 0;
}

}  // namespace attune::cli
