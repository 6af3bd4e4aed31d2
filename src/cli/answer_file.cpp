#include "cli/answer_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "cli/arguments.h"
#include "util/error.h"
#include "util/files.h"

namespace attune::cli {

AnswerFile::AnswerFile(std::string file, bool resume, Json settings) : file_(std::move(file)), settings_(std::move(settings)) {
  if (file_.empty()) return;
  partial_ = file_ + ".partial";
  if (const fs::path parent = fs::path(file_).parent_path(); !parent.empty() && !fs::is_directory(parent))
    refuse("--out: the directory {} does not exist", parent.string());
  if (fs::exists(partial_)) {
    if (!resume) refuse("--out: {} is an unfinished job; continue it with --resume, or remove it", partial_);
    restore();
  } else if (resume && fs::exists(file_)) {
    complete_ = true;
    const std::vector<std::string> lines = read_lines(file_);
    failed_ = std::any_of(lines.begin(), lines.end(), [&](const std::string& row) { return parse_json(row, file_).contains("error"); });
    return;
  }
  stream_ = std::fopen(partial_.c_str(), answers_.empty() ? "wb" : "ab");
  if (!stream_) refuse("--out: cannot write {}: {}", partial_, std::strerror(errno));
  if (answers_.empty()) line({{"settings", settings_}});
}

AnswerFile::~AnswerFile() {
  if (stream_) std::fclose(stream_);
}

// A line that was cut off when the job ended is dropped; anything else that is not ours is refused.
void AnswerFile::restore() {
  const std::string content = read_file(partial_, uint64_t{1} << 40);
  size_t number = 0, at = 0;
  for (size_t end; (end = content.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::string where = fmt::format("{}:{}", partial_, ++number);
    const Json row = parse_json(std::string_view(content).substr(at, end - at), where);
    if (number == 1) {
      if (!row.is_object() || !row.contains("settings")) refuse("{}: not the progress of a generate job", where);
      for (const auto& [key, value] : settings_.items())
        if (!row["settings"].contains(key) || row["settings"][key] != value)
          refuse("--resume: {} was {} when {} was begun and is {} now; restore it, or remove the file and begin again", key,
                 row["settings"].contains(key) ? row["settings"][key].dump() : "unknown", partial_, value.dump());
      continue;
    }
    const auto whole = [&](const char* key) { return row.is_object() && row.contains(key) && row[key].is_number_unsigned(); };
    const auto text = [&](const char* key) { return row.contains(key) && row[key].is_string() ? row[key].get<std::string>() : std::string(); };
    if (!whole("row") || !whole("sample")) refuse("{}: not a line of a generate job", where);
    answers_[{row["row"].get<size_t>(), row["sample"].get<int64_t>()}] = {text("predict"), text("error")};
    failed_ = failed_ || row.contains("error");
  }
  if (at < content.size()) fs::resize_file(partial_, at);
}

void AnswerFile::line(const Json& json) {
  if (!stream_) return;
  const std::string text = dump_json(json) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), stream_) != text.size() || std::fflush(stream_) != 0)
    fail("{}: cannot write: {}", partial_, std::strerror(errno));
}

void AnswerFile::expect(const std::vector<PromptRow>& rows, int64_t samples) {
  rows_ = rows.size();
  samples_ = samples;
  std::erase_if(answers_, [&](const auto& a) { return a.first.first >= rows_ || a.first.second >= samples_; });
}

void AnswerFile::add(size_t row, int64_t sample, const std::string& text, const std::string& error) {
  answers_[{row, sample}] = {text, error};
  Json json = {{"row", row}, {"sample", static_cast<uint64_t>(sample)}};
  json[error.empty() ? "predict" : "error"] = error.empty() ? text : error;
  failed_ = failed_ || !error.empty();
  line(json);
}

void AnswerFile::publish(const std::vector<PromptRow>& rows) {
  std::string out;
  for (const auto& [key, answer] : answers_) {
    const PromptRow& row = rows[key.first];
    Json json = {{"prompt", row.shown}};
    if (answer.error.empty()) json["predict"] = answer.text;
    if (row.has_label) json["label"] = row.label;
    if (row.adapter) json["adapter"] = *row.adapter;
    if (samples_ > 1) json["sample"] = key.second;
    if (!answer.error.empty()) json["error"] = answer.error;
    out += dump_json(json) + "\n";
  }
  if (file_.empty()) {
    std::fwrite(out.data(), 1, out.size(), stdout);
    return;
  }
  write_file_atomic(file_, out);
  std::fclose(stream_);
  stream_ = nullptr;
  fs::remove(partial_);
}

}  // namespace attune::cli
