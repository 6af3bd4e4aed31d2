#include "train/run_log.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "util/error.h"
#include "util/machine.h"

namespace attune::train {
namespace {

// CRC-32C (Castagnoli), as TFRecord masks it.
uint32_t masked_crc(const std::string& data) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0x82F63B78u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (const char ch : data) crc = table[(crc ^ static_cast<unsigned char>(ch)) & 0xFF] ^ (crc >> 8);
  crc ^= 0xFFFFFFFFu;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class T>
std::string raw(T x) {
  return std::string(reinterpret_cast<const char*>(&x), sizeof x);
}

std::string varint(uint64_t x) {
  std::string out;
  for (; x >= 128; x >>= 7) out += static_cast<char>(x | 128);
  return out + static_cast<char>(x);
}

std::string bytes_field(int number, const std::string& content) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(content.size()) + content;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string clock(double seconds) {
  const auto s = static_cast<int64_t>(seconds);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

struct EventWriter::File {
  std::ofstream stream;
};

EventWriter::EventWriter(const fs::path& directory) : file_(std::make_unique<File>()) {
  fs::create_directories(directory);
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  const auto name = fmt::format("events.out.tfevents.{}.{}.{}.0", static_cast<int64_t>(wall_time()), host, ::getpid());
  file_->stream.open(directory / name, std::ios::binary);
  record(varint(1 << 3 | 1) + raw(wall_time()) + bytes_field(3, "brain.Event:2"));
}

EventWriter::~EventWriter() = default;

void EventWriter::scalar(const std::string& tag, int64_t step, float value) {
  const std::string summary = bytes_field(1, bytes_field(1, tag) + varint(2 << 3 | 5) + raw(value));
  record(varint(1 << 3 | 1) + raw(wall_time()) + varint(2 << 3 | 0) + varint(static_cast<uint64_t>(step)) + bytes_field(5, summary));
}

void EventWriter::record(const std::string& event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  file_->stream << length << raw(masked_crc(length)) << event << raw(masked_crc(event));
  file_->stream.flush();
}

RunLog::RunLog(const fs::path& output_dir, int64_t total_steps, bool resumed)
    : directory_(output_dir), total_steps_(total_steps), history_(std::make_unique<Json>(Json::array())),
      events_(std::make_unique<EventWriter>(output_dir / "runs")) {
  if (!resumed) fs::remove(directory_ / "trainer_log.jsonl");
}

RunLog::~RunLog() = default;

const Json& RunLog::history() const { return *history_; }

void RunLog::line(const Json& json) {
  std::ofstream out(directory_ / "trainer_log.jsonl", std::ios::app);
  out << dump_json(json) << "\n";
}

void RunLog::train(const TrainEntry& e) {
  Json entry = {{"epoch", e.epoch}, {"grad_norm", e.grad_norm}, {"learning_rate", e.learning_rate}, {"loss", e.loss}};
  Json short_line = {{"current_steps", e.step}, {"total_steps", total_steps_}, {"loss", e.loss}, {"lr", e.learning_rate}, {"epoch", e.epoch},
                     {"percentage", std::round(1e4 * static_cast<double>(e.step) / static_cast<double>(total_steps_)) / 100},
                     {"elapsed_time", clock(e.elapsed)}, {"remaining_time", clock(e.remaining)},
                     {"throughput", std::round(e.tokens_per_second * 100) / 100}, {"total_tokens", e.total_tokens}};
  const auto figure = [&](const std::string& name, double value) {
    entry[name] = value;
    events_->scalar("train/" + name, e.step, static_cast<float>(value));
    // LLaMA-Factory's names for what its curves show.
    if (name == "rewards/accuracies") short_line["accuracy"] = value;
    if (name == "rewards/chosen") short_line["reward"] = value;
  };
  if (!std::isnan(e.token_accuracy)) figure("mean_token_accuracy", e.token_accuracy);
  if (e.measures)
    for (const auto& m : e.measures->entries())
      if (m.known()) figure(m.name, m.mean());
  entry["step"] = e.step;
  history_->push_back(entry);
  line(short_line);
  events_->scalar("train/loss", e.step, static_cast<float>(e.loss));
  events_->scalar("train/grad_norm", e.step, static_cast<float>(e.grad_norm));
  events_->scalar("train/learning_rate", e.step, static_cast<float>(e.learning_rate));
  events_->scalar("train/tokens_per_second", e.step, static_cast<float>(e.tokens_per_second));
}

void RunLog::evaluation(int64_t step, double epoch, const Json& metrics, double elapsed, double remaining, int64_t total_tokens) {
  Json entry = {{"epoch", epoch}};
  for (const auto& [key, value] : metrics.items()) {
    entry[key] = value;
    if (value.is_number()) events_->scalar("eval/" + key.substr(key.starts_with("eval_") ? 5 : 0), step, value.get<float>());
  }
  entry["step"] = step;
  history_->push_back(entry);
  line({{"current_steps", step}, {"total_steps", total_steps_}, {"eval_loss", metrics["eval_loss"]}, {"epoch", epoch},
        {"percentage", std::round(1e4 * static_cast<double>(step) / static_cast<double>(total_steps_)) / 100},
        {"elapsed_time", clock(elapsed)}, {"remaining_time", clock(remaining)}, {"total_tokens", total_tokens}});
}

void RunLog::finish(int64_t step, double epoch, const Json& metrics) {
  Json entry = {{"epoch", epoch}};
  for (const auto& [key, value] : metrics.items()) entry[key] = value;
  entry["step"] = step;
  history_->push_back(entry);
}

void RunLog::restore(const Json& history, int64_t step) {
  *history_ = history;
  const fs::path file = directory_ / "trainer_log.jsonl";
  if (!fs::exists(file)) return;
  std::ifstream in(file);
  std::string kept;
  for (std::string text; std::getline(in, text);) {
    const Json parsed = Json::parse(text, nullptr, false);
    if (parsed.is_object() && parsed.contains("current_steps") && parsed["current_steps"].get<int64_t>() <= step) kept += text + "\n";
  }
  write_file_atomic(file, kept);
}

void RunLog::write_curve() const { write_file_atomic(directory_ / "training_loss.svg", loss_curve_svg(*history_)); }

std::string trainer_state_json(const TrainerState& s, const Json& history) {
  nlohmann::json state;  // sorts its keys, as transformers does
  state["best_global_step"] = nullptr;
  state["best_metric"] = nullptr;
  state["best_model_checkpoint"] = nullptr;
  if (s.best_step > 0) {
    state["best_global_step"] = s.best_step;
    state["best_metric"] = s.best_metric;
    if (!s.best_checkpoint.empty()) state["best_model_checkpoint"] = s.best_checkpoint;
  }
  state["epoch"] = s.epoch;
  state["eval_steps"] = s.eval_steps;
  state["global_step"] = s.global_step;
  state["is_hyper_param_search"] = false;
  state["is_local_process_zero"] = true;
  state["is_world_process_zero"] = true;
  state["log_history"] = nlohmann::json::parse(history.dump());
  state["logging_steps"] = s.logging_steps;
  state["max_steps"] = s.max_steps;
  state["num_input_tokens_seen"] = s.num_input_tokens_seen;
  state["num_train_epochs"] = static_cast<int64_t>(std::ceil(s.num_train_epochs));
  state["save_steps"] = s.save_steps;
  state["stateful_callbacks"] = nlohmann::json::object();
  state["total_flos"] = s.total_flos;
  state["train_batch_size"] = s.train_batch_size;
  state["trial_name"] = nullptr;
  state["trial_params"] = nullptr;
  return state.dump(2) + "\n";
}

}  // namespace attune::train
