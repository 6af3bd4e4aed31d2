// The answers of a long job: each is on the disk as soon as it is there, the file itself appears when all are.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "cli/prompt_file.h"
#include <nlohmann/json.hpp>

#include "util/json.h"

namespace attune::cli {

// Progress stands in `file`.partial: a line with the settings, then one an answer, in the order in which they came.
class AnswerFile {
 public:
  // `file` empty: answers go to stdout in the end. Refuses to begin where an unfinished job is and `resume` is not asked for,
  // and to resume with other settings.
  AnswerFile(std::string file, bool resume, Json settings);
  ~AnswerFile();
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;

  // Whether a resumed job was finished before.
  bool complete() const { return complete_; }
  void expect(const std::vector<PromptRow>& rows, int64_t samples);
  bool has(size_t row, int64_t sample) const { return answers_.count({row, sample}) > 0; }
  void add(size_t row, int64_t sample, const std::string& text, const std::string& error);
  int64_t done() const { return static_cast<int64_t>(answers_.size()); }
  int64_t total() const { return static_cast<int64_t>(rows_) * samples_; }
  bool failed() const { return failed_; }  // whether a row has an error

  // {prompt, predict, label?} of every row, in order; `adapter` where the row asks for one, `sample` where there are several,
  // `error` instead of predict.
  void publish(const std::vector<PromptRow>& rows);

 private:
  struct Answer {
    std::string text, error;
  };
  void restore();
  void line(const Json& json);

  std::string file_, partial_;
  Json settings_;
  std::map<std::pair<size_t, int64_t>, Answer> answers_;
  size_t rows_ = 0;
  int64_t samples_ = 1;
  bool complete_ = false, failed_ = false;
  std::FILE* stream_ = nullptr;
};

}  // namespace attune::cli
