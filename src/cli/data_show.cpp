#include "cli/data_show.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "text/unicode.h"

namespace attune::cli {
namespace {

std::string token_text(const text::Tokenizer& tokenizer, int32_t id) {
  return tokenizer.is_special(id) ? tokenizer.id_to_token(id) : tokenizer.token_bytes(id);
}

// A part of a sample: tokens [begin, end).
struct Part {
  int64_t sample;
  size_t begin, end;
  size_t mark = SIZE_MAX;  // ‖ stands before this token
};
constexpr const char* kMark = "‖";

Part whole(const data::TokenSet& set, int64_t sample) { return {sample, 0, set.ids(sample).size()}; }

// Tokens of one weight that follow each other, each run whole characters where the text has them.
template <class OnRun>
void for_runs(const Show& show, const Part& part, OnRun on_run) {
  const auto ids = show.set.ids(part.sample);
  const auto weights = show.set.weights(part.sample);
  for (size_t begin = part.begin; begin < part.end;) {
    std::string text;
    size_t end = begin;
    const float weight = weights[begin];
    do text += token_text(show.tokenizer, ids[end++]);
    while (end < part.end && weights[end] == weight && end != part.mark);
    on_run(text, weight, begin == part.mark);
    begin = end;
  }
}

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text::to_valid_utf8(text)) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += c;
  }
  return out;
}

constexpr const char* kPageHead = R"(<!doctype html>
<html lang="en"><meta charset="utf-8"><title>attune: samples</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
i { color: #c00; font-style: normal; font-weight: bold }
h2 { font-size: 1rem; margin: 2rem 0 .3rem } h2 small { font-weight: normal; color: #777 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f4; border-radius: 6px; padding: .8rem; font: 13px/1.6 ui-monospace, monospace; color: #777 }
pre b { font-weight: normal; color: #111; background: rgba(46, 160, 67, var(--w)); border-radius: 3px }
pre span:hover, pre b span:hover { outline: 1px solid #888 }
</style>
<h1>Samples</h1>
<p>Green is learnt, the stronger the larger its loss weight; grey is only read. Point at a token to see its id.</p>
)";

struct Lengths {
  std::vector<int64_t> sorted;
  int64_t tokens = 0, labelled = 0, groups = 0;
  int64_t quantile(double q) const { return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))]; }
  Json json() const {
    return {{"samples", groups},
            {"tokens", tokens},
            {"labelled_tokens", labelled},
            {"labelled_share", static_cast<double>(labelled) / static_cast<double>(std::max<int64_t>(1, tokens))},
            {"length", {{"min", sorted.front()}, {"median", quantile(0.5)}, {"p90", quantile(0.9)}, {"p99", quantile(0.99)}, {"max", sorted.back()}}}};
  }
};

Lengths lengths_of(const data::TokenSet& set, int32_t source) {
  Lengths l;
  // The second sample of a judged row holds another row's answer.
  const int64_t stride = set.has_side(data::kDesirable) ? 2 : 1;
  for (int64_t i = 0; i < set.size(); i += stride) {
    if (source >= 0 && set.source(i) != source) continue;
    l.sorted.push_back(set.length(i));
    l.tokens += set.length(i);
    l.labelled += set.weights(i).labels();
    l.groups += i % set.group_size() == 0;
  }
  std::sort(l.sorted.begin(), l.sorted.end());
  return l;
}

std::string part_text(const Show& show, const Part& part) {
  std::string out;
  for_runs(show, part, [&](const std::string& text, float weight, bool marked) {
    const std::string scale = weight == 0 || weight == 1 ? "" : fmt::format("×{:g} ", weight);
    if (marked) out += show.colour ? std::string("\x1b[1;31m") + kMark + "\x1b[0m" : kMark;
    if (show.colour) out += fmt::format("\x1b[{}m{}{}", weight == 0 ? 90 : weight == 1 ? 32 : 33, scale, text);
    else out += weight == 0 ? text : "[[" + scale + text + "]]";
  });
  return out + (show.colour ? "\x1b[0m" : "");
}

// The tokens as spans that name their ids; what is learnt is marked.
std::string part_html(const Show& show, const Part& part) {
  const auto ids = show.set.ids(part.sample);
  const auto weights = show.set.weights(part.sample);
  std::string out = "<pre>";
  float open = 0;
  for (size_t i = part.begin; i < part.end;) {
    const float weight = weights[i];
    if (weight != open) {
      if (open != 0) out += "</b>";
      open = weight;
      if (open != 0) out += fmt::format("<b style=\"--w:{:.2f}\" title=\"weight {:g}\">", std::min(0.6, 0.15 + 0.2 * static_cast<double>(open)), open);
    }
    if (i == part.mark) out += fmt::format("<i title=\"here the answers part\">{}</i>", kMark);
    // A character may take several tokens: they are shown together.
    std::string text, numbers;
    size_t end = i;
    do {
      text += token_text(show.tokenizer, ids[end]);
      numbers += (numbers.empty() ? "" : " ") + std::to_string(ids[end]);
      ++end;
    } while (end < part.end && end != part.mark && weights[end] == weight && end - i < 8 && text::unfinished_tail(text) > 0);
    out += fmt::format("<span title=\"{}, weight {:g}\">{}</span>", numbers, weight, escaped(text));
    i = end;
  }
  return out + (open != 0 ? "</b></pre>\n" : "</pre>\n");
}

struct Titled {
  std::string title;  // empty: there is one part
  Part part;
};

// What of a group is shown, in order.
std::vector<Titled> parts_of(const Show& show, int64_t group) {
  const data::TokenSet& set = show.set;
  const int64_t first = group * set.group_size();
  if (show.kind == data::RowKind::judged)
    return {{set.side(data::kDesirable, first) == 1 ? "a desirable answer" : "an undesirable answer", whole(set, first)},
            {"the same prompt with the answer of another row, for the estimate of how far the model has moved", whole(set, first + 1)}};
  if (show.kind != data::RowKind::pair) return {{"", whole(set, first)}};
  const PairView view = pair_view(set, group);
  std::vector<Titled> parts{{fmt::format("prompt: {} tokens", view.prompt), {first, 0, view.prompt}}};
  for (const auto& [name, sample] : {std::pair{"chosen", first}, {"rejected", first + 1}})
    parts.push_back({fmt::format("{}: {} tokens", name, set.ids(sample).size() - view.prompt), {sample, view.prompt, set.ids(sample).size(), view.parts_at}});
  return parts;
}

std::string name_of_group(const Show& show, int64_t group) {
  const data::TokenSet& set = show.set;
  const int64_t first = group * set.group_size();
  if (show.kind == data::RowKind::pair)
    return fmt::format("preference pair{}; the answers part at their token {}", set.has_side(data::kMargin) ? fmt::format(", margin {:g}", set.side(data::kMargin, first)) : "",
                       pair_view(set, group).parts_at - pair_view(set, group).prompt + 1);
  return fmt::format("{} tokens", set.length(first));
}

}  // namespace

PairView pair_view(const data::TokenSet& set, int64_t group) {
  const auto chosen = set.ids(2 * group), rejected = set.ids(2 * group + 1);
  const auto answer = [&](int64_t sample) {
    const auto weights = set.weights(sample);
    return static_cast<size_t>(std::distance(weights.begin(), std::find_if(weights.begin(), weights.end(), [](float w) { return w != 0; })));
  };
  const auto part = std::mismatch(chosen.begin(), chosen.end(), rejected.begin(), rejected.end()).first;
  return {std::min(answer(2 * group), answer(2 * group + 1)), static_cast<size_t>(part - chosen.begin())};
}

std::string group_text(const Show& show, int64_t group) {
  std::string out = fmt::format("{}  ({}; {})\n", show.set.where(group * show.set.group_size()), name_of_group(show, group),
                                show.colour ? "green is learnt, yellow with a weight of its own, grey is read" : "[[…]] is learnt");
  for (const auto& [title, part] : parts_of(show, group)) out += (title.empty() ? "" : "--- " + title + "\n") + part_text(show, part) + "\n";
  return out;
}

std::string samples_page(const Show& show, const std::vector<int64_t>& groups) {
  std::string out = kPageHead;
  for (int64_t group : groups) {
    out += fmt::format("<h2>{} <small>{}</small></h2>\n", escaped(show.set.where(group * show.set.group_size())), escaped(name_of_group(show, group)));
    for (const auto& [title, part] : parts_of(show, group)) out += (title.empty() ? "" : "<p>" + escaped(title) + "</p>\n") + part_html(show, part);
  }
  return out + "</html>\n";
}

Json answer_statistics(const data::TokenSet& set, data::RowKind kind) {
  const auto number = static_cast<double>(set.groups());
  if (kind == data::RowKind::judged) {
    int64_t good = 0;
    for (int64_t g = 0; g < set.groups(); ++g) good += set.side(data::kDesirable, 2 * g) == 1;
    return {{"desirable", good}, {"undesirable", set.groups() - good}};
  }
  if (kind != data::RowKind::pair) return Json::object();
  Lengths sides[2];
  int64_t longer = 0, equal = 0;
  for (int64_t g = 0; g < set.groups(); ++g) {
    const auto prompt = static_cast<int64_t>(pair_view(set, g).prompt);
    for (int64_t i = 0; i < 2; ++i) {
      sides[i].sorted.push_back(set.length(2 * g + i) - prompt);
      sides[i].tokens += sides[i].sorted.back();
    }
    longer += sides[0].sorted.back() > sides[1].sorted.back();
    equal += sides[0].sorted.back() == sides[1].sorted.back();
  }
  Json out = {{"longer_chosen_share", static_cast<double>(longer) / number}, {"equal_length_share", static_cast<double>(equal) / number}};
  for (int i = 0; i < 2; ++i) {
    std::sort(sides[i].sorted.begin(), sides[i].sorted.end());
    out[i == 0 ? "chosen_length" : "rejected_length"] = {{"mean", std::round(10 * static_cast<double>(sides[i].tokens) / number) / 10},
                                                         {"median", sides[i].quantile(0.5)}, {"p99", sides[i].quantile(0.99)}, {"max", sides[i].sorted.back()}};
  }
  return out;
}

Json length_statistics(const data::TokenSet& set) {
  Json all = lengths_of(set, -1).json();
  Json each = Json::object();
  for (size_t s = 0; s < set.sources().size(); ++s) {
    const Lengths l = lengths_of(set, static_cast<int32_t>(s));
    if (!l.sorted.empty()) each[set.sources()[s]] = l.json();
  }
  all["data_sets"] = each;
  return all;
}

std::string length_histogram(const data::TokenSet& set) {
  const Lengths l = lengths_of(set, -1);
  // Edges of equal ratio, whole numbers: lengths spread over orders of magnitude.
  constexpr int kRows = 16;
  const double low = static_cast<double>(l.sorted.front()), ratio = std::pow(static_cast<double>(l.sorted.back() + 1) / low, 1.0 / kRows);
  std::vector<int64_t> edges{l.sorted.front()};
  for (int i = 1; i <= kRows; ++i)
    if (const auto edge = static_cast<int64_t>(std::ceil(low * std::pow(ratio, i) - 1e-9)); edge > edges.back()) edges.push_back(edge);
  std::vector<int64_t> counts(edges.size() - 1, 0);
  for (int64_t n : l.sorted) ++counts[std::min<size_t>(counts.size() - 1, static_cast<size_t>(std::upper_bound(edges.begin(), edges.end(), n) - edges.begin()) - 1)];
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  std::string out = fmt::format("{:>17}  {:>8}  {:>6}\n", "length in tokens", "samples", "up to");
  int64_t sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    sum += counts[i];
    std::string bar;
    for (int64_t k = 0; k < 40 * counts[i] / most; ++k) bar += "█";
    if (bar.empty() && counts[i] > 0) bar = "▏";
    out += fmt::format("{:>7} – {:>7}  {:>8}  {:>5.1f}%  {}\n", edges[i], edges[i + 1] - 1, counts[i], 100.0 * static_cast<double>(sum) / static_cast<double>(l.sorted.size()), bar);
  }
  return out;
}

}  // namespace attune::cli
