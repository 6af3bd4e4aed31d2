// Small templates against what jinja2 makes of them in Hugging Face's environment.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "text/jinja_render.h"
#include "util/error.h"
#include "util/json.h"

namespace {

using attune::Json;
using namespace attune::text::jinja;

TEST(JinjaDifferential, SmallTemplatesRenderAsInJinja2) {
  const Json fixture = attune::read_json(std::string(ATTUNE_FIXTURES) + "/chat/small_templates.json");
  Variables context;
  for (const auto& [name, value] : fixture["context"].items())
    context.emplace_back(name, Value::from_json(value, {Source::context, false, -1}));
  size_t checked = 0;
  for (const Json& row : fixture["templates"]) {
    const std::string source = row["source"];
    SCOPED_TRACE(source);
    std::string text, problem;
    bool failed = false;
    try {
      text = Template(source, "snippet").render(context).text.bytes();
    } catch (const attune::Error& error) {
      failed = true;
      problem = error.what();
    }
    ++checked;
    if (row.contains("error")) {
      EXPECT_TRUE(failed) << "jinja2 raises " << row["error"] << ", got: " << text;
    } else {
      EXPECT_FALSE(failed) << problem;
      EXPECT_EQ(text, row["text"].get<std::string>());
    }
  }
  EXPECT_GT(checked, 500u);
}

}  // namespace
