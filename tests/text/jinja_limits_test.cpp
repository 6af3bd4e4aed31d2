// Hostile and broken templates end with an error, never with the machine.
#include <gtest/gtest.h>

#include "text/jinja_render.h"
#include "util/error.h"

namespace {

using namespace attune::text::jinja;

std::string problem_of(const std::string& source) {
  Limits limits;
  limits.steps = 2'000'000;
  limits.bytes = 128 << 20;
  try {
    return "rendered: " + Template(source, "name").render({}, limits).text.bytes().substr(0, 100);
  } catch (const attune::Error& error) {
    return error.what();
  }
}

TEST(JinjaLimits, HostileTemplatesAreStopped) {
  const std::string deep_parens = "{{ " + std::string(100'000, '(') + " }}";
  std::string chain = "{{ 1";
  for (int i = 0; i < 100'000; ++i) chain += "+1";
  std::string filters = "{{ 'a'";
  for (int i = 0; i < 100'000; ++i) filters += "|trim";
  const std::string sources[] = {
      deep_parens,
      chain + " }}",
      filters + " }}",
      "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}{% for i in range(90) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ "
      "n.x|tojson }}",
      "{{ 'a' * 999999999999 }}",
      "{{ [1] * 999999999999 }}",
      "{{ range(1000000000)|list }}",
      "{{ 'a'.ljust(1000000000) }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{% for i in range(99999) %}{{ f(x) }}{% endfor %}{% endmacro %}{{ f(1) }}",
      "{% for i in range(90000) %}{% for j in range(90000) %}{% for k in range(90000) %}{% endfor %}{% "
      "endfor %}{% endfor %}",
      "{% for i in range(90000) %}{% for j in range(90000) %}{{ 'aaaaaaaaaaaaaaaa' }}{% endfor %}{% endfor "
      "%}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 2 ** 999999999999 }}",
      "{{ 99999999999999999999 }}",
  };
  for (const std::string& source : sources) {
    const std::string problem = problem_of(source);
    EXPECT_TRUE(problem.starts_with("chat template name, line 1: ")) << source.substr(0, 80) << "\n"
                                                                     << problem;
  }
}

TEST(JinjaLimits, CirclesOfNamespacesAndMacrosAreFreed) {
  EXPECT_EQ(
      problem_of(
          "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a.b.a.b.a is defined }}"
          "{% macro f() %}{{ a.f is defined }}{% endmacro %}{% set a.f = f %}{{ a.f() }}"),
      "rendered: TrueTrue");
  EXPECT_EQ(problem_of("{% set n = namespace() %}{% for i in range(3) %}{% macro f() %}{{ i }}{% endmacro %}"
                       "{% set n.f = f %}{% endfor %}{{ n.f() }}"),
            "rendered: 2");
}

TEST(JinjaErrors, NameTheConstructAndTheLine) {
  EXPECT_EQ(problem_of("a\nb\n{% include 'x' %}"),
            "chat template name, line 3: the tag {% include %} is not supported in chat templates");
  EXPECT_EQ(problem_of("a\n{{ 1|nope }}"),
            "chat template name, line 2: the filter 'nope' is not supported in chat templates");
  EXPECT_EQ(problem_of("\n\n{{ x.y }}"), "chat template name, line 3: 'x' is undefined");
  EXPECT_EQ(problem_of("{% if x %}"), "chat template name, line 1: {% endif %} is missing");
  EXPECT_NE(
      problem_of("{{ raise_exception('no system role') }}").find("refuses this conversation: no system role"),
      std::string::npos);
}

}  // namespace
