// The '%' operator of strings.
#include <algorithm>
#include <cstdio>

#include "text/jinja_render.h"

namespace attune::text::jinja {

// "…%s…" % values, piece by piece so that origins survive.
Value format_percent(Renderer& renderer, const Text& format, const Value& arguments) {
  const bool tuple = arguments.is(Kind::list) && arguments.as_list().kind == ListKind::tuple;
  const std::vector<Value> values = tuple ? arguments.as_list().items : std::vector<Value>{arguments};
  const std::string& bytes = format.bytes();
  size_t used = 0;
  Text out;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != '%') {
      out.append(format, i, i + 1);
      continue;
    }
    size_t end = bytes.find_first_not_of("-+ #0123456789.", i + 1);
    if (end == std::string::npos) value_error("'%' formatting: the format is not complete");
    const std::string options = bytes.substr(i + 1, end - i - 1);
    const char kind = bytes[end];
    i = end;
    if (kind == '%') {
      out.append("%", format.origin_at(end));
      continue;
    }
    if (kind == '(') value_error("'%' formatting with names is not supported");
    if (used >= values.size()) value_error("'%' formatting: not enough values");
    const Value& value = values[used++];
    if (options.size() > 6) value_error("'%' formatting: a width is too large");
    if (kind == 's' || kind == 'r') {
      if (!options.empty()) value_error("'%' formatting: a width for %s is not supported");
      Text part;
      if (kind == 's')
        part = to_text(value);
      else
        append_repr(value, part);
      out.append(part);
      continue;
    }
    if (!value.is_number())
      value_error(std::string("'%") + kind + "' needs a number, not " + type_name(value));
    char buffer[1024];
    if (kind == 'd' || kind == 'i' || kind == 'x' || kind == 'X' || kind == 'o') {
      const std::string spec = "%" + options + "ll" + kind;
      const int64_t number = value.is(Kind::real)
                                 ? static_cast<int64_t>(std::clamp(value.as_real(), -9e18, 9e18))
                                 : value.as_integer();
      std::snprintf(buffer, sizeof buffer, spec.c_str(), static_cast<long long>(number));
    } else if (std::string_view("feEgG").find(kind) != std::string_view::npos) {
      const std::string spec = "%" + options + kind;
      std::snprintf(buffer, sizeof buffer, spec.c_str(), value.as_real());
    } else {
      value_error(std::string("'%' formatting: '%") + kind + "' is not supported");
    }
    out.append(buffer, value.origin());
  }
  if (tuple && used < values.size()) value_error("'%' formatting: not all values are used");
  if (!tuple && used == 0 && !arguments.is(Kind::dict) && !arguments.is(Kind::list))
    value_error("'%' formatting: not all values are used");
  return renderer.string(std::move(out));
}

}  // namespace attune::text::jinja
