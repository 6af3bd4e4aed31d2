#include "train/samples.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/log.h"

namespace attune::train {
namespace {

constexpr int64_t kAtATime = 8;

struct Sample {
  std::vector<int32_t> prompt, label;
};

std::vector<Sample> first_samples(const RunSetup& setup) {
  std::vector<Sample> out;
  if (!setup.eval_set) return out;
  // Of a pair the chosen answer, of a judged row its own.
  const int64_t stride = setup.eval_set->group_size();
  for (int64_t i = 0; i < setup.eval_set->size() && static_cast<int64_t>(out.size()) < setup.config.num_generation_samples; i += stride) {
    const auto ids = setup.eval_set->ids(i);
    const auto weights = setup.eval_set->weights(i);
    size_t begin = 1;
    while (begin < ids.size() && weights[begin] == 0) ++begin;
    if (begin >= ids.size()) continue;
    size_t end = begin;
    while (end < ids.size() && weights[end] != 0) ++end;
    if (begin == 1) begin = std::max<size_t>(1, end / 2);
    out.push_back({{ids.begin(), ids.begin() + static_cast<ptrdiff_t>(begin)},
                   {ids.begin() + static_cast<ptrdiff_t>(begin), ids.begin() + static_cast<ptrdiff_t>(end)}});
  }
  return out;
}

std::vector<int32_t> stop_ids(const RunSetup& setup) {
  std::vector<int32_t> ids;
  if (setup.tokenizer->eos_id()) ids.push_back(*setup.tokenizer->eos_id());
  for (int64_t id : setup.architecture.eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  if (setup.chat)
    for (const std::string& text : setup.chat->stop_texts())
      if (const auto id = setup.tokenizer->token_to_id(text)) ids.push_back(*id);
  return ids;
}

std::string one_line(std::string text, size_t most) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;  // whole characters
  return text.substr(0, most) + "…";
}

}  // namespace

GenerationSamples::GenerationSamples(const RunSetup& setup, bool resumed)
    : setup_(setup), file_(fs::path(setup.config.output_dir) / "generated_samples.jsonl") {
  options_.max_new_tokens = setup.config.generation_max_new_tokens;
  options_.batch_size = kAtATime;
  options_.stop_ids = stop_ids(setup);
  for (Sample& s : first_samples(setup)) {
    prompts_.push_back({std::move(s.prompt), prompts_.size()});
    labels_.push_back(std::move(s.label));
  }
  if (!resumed) fs::remove(file_);
}

void GenerationSamples::restore(int64_t step) const {
  if (!fs::exists(file_)) return;
  std::ifstream in(file_);
  std::string kept;
  for (std::string text; std::getline(in, text);) {
    const Json row = Json::parse(text, nullptr, false);
    if (row.is_object() && row.contains("step") && row["step"].is_number_integer() && row["step"].get<int64_t>() <= step) kept += text + "\n";
  }
  write_file_atomic(file_, kept);
}

void GenerationSamples::write(models::Decoder& model, int64_t step) const try {
  if (prompts_.empty()) return;
  infer::Session session(model, setup_.engine.compute, "generated_samples.jsonl");
  const auto answers = session.generate_batch(prompts_, options_);
  std::string lines;
  for (size_t i = 0; i < answers.size(); ++i) {
    const auto text = [&](const std::vector<int32_t>& ids) { return setup_.tokenizer->decode(ids, true); };
    const std::string predict = text(answers[i].ids), label = text(labels_[i]);
    lines += dump_json({{"step", step}, {"prompt", text(prompts_[i].ids)}, {"predict", predict}, {"label", label}}) + "\n";
    if (i == 0) info("step {}  sample: {}  (expected: {})", step, one_line(predict, 160), one_line(label, 80));
  }
  std::ofstream out(file_, std::ios::app | std::ios::binary);
  out << lines << std::flush;
  if (!out) fail("{}: cannot write", file_.string());
} catch (const Error& error) {
  warn("step {}: no samples: {}", step, error.what());
}

uint64_t generation_sample_bytes(const RunSetup& setup, models::Decoder& model) {
  int64_t longest = 0, count = 0;
  for (const Sample& s : first_samples(setup)) longest = std::max(longest, static_cast<int64_t>(s.prompt.size())), ++count;
  if (count == 0) return 0;
  return infer::generation_bytes(model, setup.engine.compute, std::min(count, kAtATime), longest, setup.config.generation_max_new_tokens,
                                 *setup.engine.backend);
}

}  // namespace attune::train
