#include "data/token_set.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>

#include "util/error.h"
#include "util/hash.h"

namespace attune::data {

float Weights::operator[](size_t j) const {
  return std::upper_bound(runs_.begin(), runs_.end(), j, [](size_t at, const Run& r) { return at < static_cast<size_t>(r.end); })->weight;
}

int64_t Weights::labels() const {
  int64_t n = 0, begin = 1;
  for (const Run& run : runs_) {
    if (run.weight != 0) n += run.end - begin;
    begin = std::max<int64_t>(begin, run.end);
  }
  return n;
}

void Weights::copy_to(std::vector<float>& out) const {
  out.clear();
  for (const Run& run : runs_) out.resize(static_cast<size_t>(run.end), run.weight);
}

TokenSet::TokenSet(Storage storage) : store_(std::move(storage)) {
  const auto check = [](bool good, const char* what) {
    if (!good) fail("token set: {}", what);
  };
  int64_t ids = 0, runs = 0;
  for (const Sample& s : store_.samples) {
    check(s.ids_end > ids && s.ids_end <= static_cast<int64_t>(store_.ids.size()), "the tokens of a sample lie outside");
    check(s.runs_end > runs && s.runs_end <= static_cast<int64_t>(store_.runs.size()), "the weights of a sample lie outside");
    check(s.file >= 0 && static_cast<size_t>(s.file) < store_.files.size(), "a sample names no file");
    check(s.source >= 0 && static_cast<size_t>(s.source) < store_.sources.size(), "a sample names no data set");
    int64_t at = 0;
    for (; runs < s.runs_end; ++runs) {
      const Weights::Run& run = store_.runs[static_cast<size_t>(runs)];
      check(run.end > at && std::isfinite(run.weight), "a weight is not in order");
      at = run.end;
    }
    check(at == s.ids_end - ids, "a sample has not as many weights as tokens");
    ids = s.ids_end;
  }
  check(store_.group_size >= 1 && store_.group_size <= 2 && size() % store_.group_size == 0, "its samples do not form groups");
  check(ids == static_cast<int64_t>(store_.ids.size()) && runs == static_cast<int64_t>(store_.runs.size()), "something belongs to no sample");
}

Weights TokenSet::weights_at(size_t s) const {
  const int64_t begin = runs_begin(s);
  return Weights({store_.runs.data() + begin, static_cast<size_t>(store_.samples[s].runs_end - begin)});
}

std::string TokenSet::where(int64_t i) const {
  const Sample& s = store_.samples[stored(i)];
  const std::string& file = store_.files[static_cast<size_t>(s.file)];
  return s.line < 0 ? file : file + ":" + std::to_string(s.line);
}

void TokenSet::set_group_size(int64_t size) {
  if (!store_.samples.empty()) fail("internal error: the samples of this set are in groups already");
  store_.group_size = size;
}

float TokenSet::side(const std::string& channel, int64_t i) const {
  const auto found = side_channels.find(channel);
  if (found == side_channels.end()) fail("internal error: no sample has a \"{}\"", channel);
  return stored(i) < found->second.size() ? found->second[stored(i)] : 0.0f;
}

void TokenSet::set_side(const std::string& channel, int64_t i, float value) {
  std::vector<float>& numbers = side_channels[channel];
  numbers.resize(store_.samples.size(), 0.0f);
  numbers[stored(i)] = value;
}

int64_t TokenSet::labelled_tokens() const {
  int64_t n = 0;
  for (int64_t i = 0; i < size(); ++i) n += weights(i).labels();
  return n;
}

int64_t TokenSet::longest() const {
  int64_t n = 0;
  for (int64_t i = 0; i < size(); ++i) n = std::max(n, length(i));
  return n;
}

int64_t TokenSet::total_tokens() const {
  int64_t n = 0;
  for (int64_t i = 0; i < size(); ++i) n += length(i);
  return n;
}

int32_t TokenSet::file_index(const std::string& file) {
  auto& files = store_.files;
  // Rows come file by file: it is the last one, or a new one.
  const auto found = std::find(files.rbegin(), files.rend(), file);
  if (found != files.rend()) return static_cast<int32_t>(files.rend() - found) - 1;
  files.push_back(file);
  return static_cast<int32_t>(files.size()) - 1;
}

void TokenSet::add(std::span<const int32_t> ids, std::span<const float> weights, const std::string& where, int32_t source) {
  if (selected_) fail("internal error: a selection of samples takes no further ones");
  if (ids.size() != weights.size() || ids.empty()) fail("internal error: {} tokens with {} weights", ids.size(), weights.size());
  Sample sample;
  const size_t colon = where.rfind(':');
  const char* end = where.data() + where.size();
  const bool has_line = colon != std::string::npos && std::from_chars(where.data() + colon + 1, end, sample.line) == std::from_chars_result{end, std::errc()} &&
                        std::to_string(sample.line) == where.substr(colon + 1) && sample.line >= 0;
  if (!has_line) sample.line = -1;
  sample.file = file_index(has_line ? where.substr(0, colon) : where);
  sample.source = source;
  store_.ids.insert(store_.ids.end(), ids.begin(), ids.end());
  for (size_t j = 0; j < weights.size(); ++j)
    if (j + 1 == weights.size() || std::bit_cast<uint32_t>(weights[j]) != std::bit_cast<uint32_t>(weights[j + 1]))
      store_.runs.push_back({static_cast<int32_t>(j) + 1, weights[j]});
  sample.ids_end = static_cast<int64_t>(store_.ids.size());
  sample.runs_end = static_cast<int64_t>(store_.runs.size());
  store_.samples.push_back(sample);
}

TokenSet TokenSet::take(const std::vector<bool>& chosen) {
  if (selected_) fail("internal error: nothing is taken out of a selection of samples");
  if (static_cast<int64_t>(chosen.size()) != groups()) fail("internal error: {} choices for {} groups", chosen.size(), groups());
  const auto is_chosen = [&](size_t sample) { return chosen[sample / static_cast<size_t>(group_size())]; };
  TokenSet taken;
  taken.store_.files = store_.files;
  taken.store_.sources = store_.sources;
  taken.store_.group_size = store_.group_size;
  for (auto& [channel, numbers] : side_channels) {
    numbers.resize(store_.samples.size(), 0.0f);
    std::vector<float>& own = taken.side_channels[channel];
    size_t kept = 0;
    for (size_t i = 0; i < numbers.size(); ++i) is_chosen(i) ? own.push_back(numbers[i]) : void(numbers[kept++] = numbers[i]);
    numbers.resize(kept);
  }
  int64_t ids = 0, runs = 0, kept_ids = 0, kept_runs = 0;
  size_t kept = 0;
  for (size_t i = 0; i < store_.samples.size(); ++i) {
    Sample s = store_.samples[i];
    const auto id = store_.ids.begin() + ids, ids_end = store_.ids.begin() + s.ids_end;
    const auto run = store_.runs.begin() + runs, runs_end = store_.runs.begin() + s.runs_end;
    ids = s.ids_end, runs = s.runs_end;
    if (is_chosen(i)) {
      taken.store_.ids.insert(taken.store_.ids.end(), id, ids_end);
      taken.store_.runs.insert(taken.store_.runs.end(), run, runs_end);
      s.ids_end = static_cast<int64_t>(taken.store_.ids.size());
      s.runs_end = static_cast<int64_t>(taken.store_.runs.size());
      taken.store_.samples.push_back(s);
    } else {
      s.ids_end = kept_ids = std::copy(id, ids_end, store_.ids.begin() + kept_ids) - store_.ids.begin();
      s.runs_end = kept_runs = std::copy(run, runs_end, store_.runs.begin() + kept_runs) - store_.runs.begin();
      store_.samples[kept++] = s;
    }
  }
  store_.ids.resize(static_cast<size_t>(kept_ids));
  store_.runs.resize(static_cast<size_t>(kept_runs));
  store_.samples.resize(kept);
  return taken;
}

void TokenSet::select(const std::vector<int64_t>& groups) {
  std::vector<int64_t> selection;
  selection.reserve(groups.size() * static_cast<size_t>(group_size()));
  for (int64_t g : groups)
    for (int64_t i = g * group_size(); i < (g + 1) * group_size(); ++i) selection.push_back(static_cast<int64_t>(stored(i)));
  selection_ = std::move(selection);
  selected_ = true;
}

std::string TokenSet::fingerprint() const {
  const auto bytes = [](const auto& v) {
    return std::string_view(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(v[0]));
  };
  // Checkpoints of all versions agree on it: the hash of where each sample begins, of one weight a token, and of the ids.
  Hasher places;
  int64_t begin = 0;
  places.update(&begin, sizeof begin);
  for (const Sample& s : store_.samples) places.update(&s.ids_end, sizeof s.ids_end);
  Hasher loss(places.digest64());
  std::vector<float> weights;
  for (size_t s = 0; s < store_.samples.size(); ++s) {
    weights_at(s).copy_to(weights);
    loss.update(weights.data(), weights.size() * sizeof(float));
  }
  uint64_t hash = hash64(bytes(store_.ids), loss.digest64());
  if (group_size() > 1) hash = hash64({reinterpret_cast<const char*>(&store_.group_size), sizeof store_.group_size}, hash);
  for (const char* channel : {kMargin, kDesirable, kExtraWeight})
    if (const auto found = side_channels.find(channel); found != side_channels.end()) {
      std::vector<float> numbers = found->second;
      numbers.resize(store_.samples.size(), 0.0f);
      hash = hash64(bytes(numbers), hash64(channel, hash));
    }
  if (selected_) hash = hash64(bytes(selection_), hash);
  return fmt::format("{:016x}", hash);
}

}  // namespace attune::data
