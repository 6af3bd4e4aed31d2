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

// Tokens of one weight that follow each other, each run whole characters where the text has them.
template <class OnRun>
void for_runs(const data::TokenSet& set, int64_t sample, const text::Tokenizer& tokenizer, OnRun on_run) {
  const auto ids = set.ids(sample);
  const auto weights = set.weights(sample);
  for (size_t begin = 0; begin < ids.size();) {
    std::string text;
    size_t end = begin;
    for (; end < ids.size() && weights[end] == weights[begin]; ++end) text += token_text(tokenizer, ids[end]);
    on_run(text, weights[begin]);
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
  int64_t tokens = 0, labelled = 0;
  Json json() const {
    const auto quantile = [&](double q) { return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))]; };
    return {{"samples", sorted.size()},
            {"tokens", tokens},
            {"labelled_tokens", labelled},
            {"labelled_share", static_cast<double>(labelled) / static_cast<double>(std::max<int64_t>(1, tokens))},
            {"length", {{"min", sorted.front()}, {"median", quantile(0.5)}, {"p90", quantile(0.9)}, {"p99", quantile(0.99)}, {"max", sorted.back()}}}};
  }
};

Lengths lengths_of(const data::TokenSet& set, int32_t source) {
  Lengths l;
  for (int64_t i = 0; i < set.size(); ++i) {
    if (source >= 0 && set.source(i) != source) continue;
    l.sorted.push_back(set.length(i));
    l.tokens += set.length(i);
    l.labelled += set.weights(i).labels();
  }
  std::sort(l.sorted.begin(), l.sorted.end());
  return l;
}

}  // namespace

std::string sample_text(const data::TokenSet& set, int64_t sample, const text::Tokenizer& tokenizer, bool colour) {
  std::string out;
  for_runs(set, sample, tokenizer, [&](const std::string& text, float weight) {
    const std::string scale = weight == 0 || weight == 1 ? "" : fmt::format("×{:g} ", weight);
    if (colour) out += fmt::format("\x1b[{}m{}{}", weight == 0 ? 90 : weight == 1 ? 32 : 33, scale, text);
    else out += weight == 0 ? text : "[[" + scale + text + "]]";
  });
  return out + (colour ? "\x1b[0m" : "");
}

std::string samples_page(const data::TokenSet& set, const std::vector<int64_t>& samples, const text::Tokenizer& tokenizer) {
  std::string out = kPageHead;
  for (int64_t sample : samples) {
    const auto ids = set.ids(sample);
    const auto weights = set.weights(sample);
    const auto learnt = std::count_if(weights.begin(), weights.end(), [](float w) { return w != 0; });
    out += fmt::format("<h2>{} <small>{} tokens, {} learnt</small></h2>\n<pre>", escaped(set.where(sample)), ids.size(), learnt);
    float open = 0;
    for (size_t i = 0; i < ids.size();) {
      // A character may take several tokens: they are shown together.
      std::string text, numbers;
      size_t end = i;
      do {
        text += token_text(tokenizer, ids[end]);
        numbers += (numbers.empty() ? "" : " ") + std::to_string(ids[end]);
        ++end;
      } while (end < ids.size() && weights[end] == weights[i] && end - i < 8 && text::unfinished_tail(text) > 0);
      if (weights[i] != open) {
        if (open != 0) out += "</b>";
        open = weights[i];
        if (open != 0) out += fmt::format("<b style=\"--w:{:.2f}\" title=\"weight {:g}\">", std::min(0.6, 0.15 + 0.2 * static_cast<double>(open)), open);
      }
      out += fmt::format("<span title=\"{}, weight {:g}\">{}</span>", numbers, weights[i], escaped(text));
      i = end;
    }
    out += open != 0 ? "</b></pre>\n" : "</pre>\n";
  }
  return out + "</html>\n";
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
