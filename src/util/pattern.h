// A regular expression over names (parameters, modules), as Python users write them (PCRE2). Found anywhere in the name.
#pragma once

#include <memory>
#include <string>

namespace attune {

class Pattern {
 public:
  // `where` names the pattern in messages ("cfg.yaml:7: freeze_parameters_regex").
  Pattern(const std::string& expression, const std::string& where);
  ~Pattern();
  Pattern(Pattern&&) noexcept;

  bool found_in(const std::string& name) const;
  const std::string& expression() const { return expression_; }

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string expression_, where_;
};

}  // namespace attune
