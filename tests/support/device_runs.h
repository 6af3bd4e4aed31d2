// The same short run of training on several devices.
#pragma once

#include <algorithm>

#include "plan/planner.h"
#include "support/workspace.h"
#include "train/trainer.h"

namespace attune::test {

// A small llama with dropout, and data for every stage: sft.jsonl, pairs.jsonl, judged.jsonl.
class DeviceRuns {
 public:
  using List = std::vector<std::string>;

  // change: of the model's config.
  explicit DeviceRuns(const Json& change) {
    Json config = small_llama_config();
    config.update({{"hidden_size", 16}, {"intermediate_size", 32}, {"attention_dropout", 0.1}});
    if (change.is_object()) config.update(change);
    make_small_model(work_ / "model", config);
    work_.write("sft.jsonl", small_alpaca(24));
    std::string pairs, judged;
    for (int i = 0; i < 16; ++i) {
      const std::string question = fmt::format("What did the cat see on day {}?", i), good = fmt::format("It saw {} dogs.", i + 2), bad = "No.";
      pairs += dump_json({{"question", question}, {"chosen", good}, {"rejected", bad}}) + "\n";
      judged += dump_json({{"messages", {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", i % 2 ? good : bad}}}},
                           {"label", i % 2 == 1}}) + "\n";
    }
    work_.write("pairs.jsonl", pairs);
    work_.write("judged.jsonl", judged);
  }

  fs::path output(const std::string& device) const { return work_ / device; }

  // more: settings beside or in place of those here; dataset=FILE names one of the above.
  void train(const std::string& device, const List& more) const {
    ::testing::internal::CaptureStderr();
    try {
      train::RunSetup setup = train::prepare(train::load_config("", settings(device, more)));
      const plan::Plan plan = plan::make_plan(setup, nullptr);
      train::run_training(setup, plan.parts.activations);
      ::testing::internal::GetCapturedStderr();
    } catch (...) {
      ::testing::internal::GetCapturedStderr();
      throw;
    }
  }

 private:
  List settings(const std::string& device, const List& more) const {
    List all{"model_name_or_path=" + (work_ / "model").string(), "dataset=sft.jsonl", "template=default", "cutoff_len=96", "per_device_train_batch_size=4",
             "logging_steps=1", "learning_rate=1e-2", "max_steps=4", "save_steps=2", "device=" + device, "output_dir=" + output(device).string()};
    for (const std::string& item : more) {
      const std::string key = item.substr(0, item.find('=') + 1);
      std::erase_if(all, [&](const std::string& other) { return other.starts_with(key); });
      all.push_back(item);
    }
    for (std::string& item : all)
      if (const std::string key = "dataset="; item.starts_with(key)) item = key + (work_ / item.substr(key.size())).string();
    return all;
  }

  Workspace work_;
};

inline DeviceRuns::List with(DeviceRuns::List first, const DeviceRuns::List& more) {
  first.insert(first.end(), more.begin(), more.end());
  return first;
}

}  // namespace attune::test
