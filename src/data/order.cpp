#include "data/order.h"

#include <algorithm>
#include <map>

#include "util/error.h"
#include "util/rng.h"

namespace attune::data {
namespace {

// Best fit looks at this many samples at a time: packs are a function of (seed, epoch, window) alone.
constexpr int64_t kWindow = 1024;

}  // namespace

Permutation::Permutation(int64_t n, uint64_t seed, uint64_t epoch) : n_(n), half_bits_(1), key_(mix_key(seed, epoch)) {
  while ((int64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
}

int64_t Permutation::operator[](int64_t place) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<uint64_t>(place);
  do {
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (mix_key(key_, round, right) & mask);
      left = right;
      right = next;
    }
    x = (left << half_bits_) | right;
  } while (x >= static_cast<uint64_t>(n_));
  return static_cast<int64_t>(x);
}

Batcher::Batcher(const TokenSet& set, const BatchingOptions& options) : set_(set), options_(options) {
  if (set.size() == 0) fail("no sample is left to train on");
  if (options.group_size % set.group_size() != 0)
    fail("internal error: groups of {} would part the set's groups of {}", options.group_size, set.group_size());
  if (set.size() % options.group_size != 0)
    fail("internal error: {} samples do not form groups of {}", set.size(), options.group_size);
  int64_t longest_group = 0, most_labels = 0;
  for (int64_t g = 0; g < set.size() / options.group_size; ++g) longest_group = std::max(longest_group, group_tokens(g));
  for (int64_t i = 0; i < set.size(); ++i) most_labels = std::max(most_labels, set.weights(i).labels());
  const int64_t b = options.micro_batch_size;
  capacity_.max_seqlen = set.longest();
  if (options.packing) {
    const int64_t room = std::max(options.cutoff_len, longest_group);
    capacity_.tokens = b * room;
    // A sequence has at least two tokens.
    capacity_.sequences = std::max<int64_t>(1, capacity_.tokens / 2);
    capacity_.label_rows = capacity_.tokens;
  } else {
    capacity_.tokens = b * longest_group;
    capacity_.sequences = b * learnt();
    capacity_.label_rows = b * most_labels * learnt();
  }
}

BatchCapacity Batcher::capacity_of(int64_t epochs) const {
  if (options_.packing || set_.size() * epochs > kMostLooks) return capacity_;
  std::vector<int64_t> labels(static_cast<size_t>(set_.size()));
  for (int64_t i = 0; i < set_.size(); ++i) labels[static_cast<size_t>(i)] = set_.weights(i).labels();
  BatchCapacity largest = capacity_;
  largest.tokens = largest.label_rows = 0;
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    const auto& all = packs(epoch);
    const auto b = static_cast<size_t>(options_.micro_batch_size);
    for (size_t begin = 0; begin < all.size(); begin += b) {
      int64_t tokens = 0, labelled = 0;
      for (size_t p = begin; p < std::min(all.size(), begin + b); ++p)
        for (int64_t group : all[p]) {
          tokens += group_tokens(group);
          labelled += most(group, [&](int64_t sample) { return labels[static_cast<size_t>(sample)]; });
        }
      largest.tokens = std::max(largest.tokens, tokens);
      largest.label_rows = std::max(largest.label_rows, labelled);
    }
  }
  return largest;
}

template <class F>
int64_t Batcher::most(int64_t group, F&& count) const {
  int64_t learning = 0, looking = 0;
  for (int64_t i = 0; i < options_.group_size; ++i) (i < learnt() ? learning : looking) += count(group * options_.group_size + i);
  return std::max(learning, looking);
}

int64_t Batcher::group_tokens(int64_t group) const {
  return most(group, [this](int64_t sample) { return set_.length(sample); });
}

const std::vector<std::vector<int64_t>>& Batcher::packs(int64_t epoch) const {
  if (packed_epoch_ == epoch) return packs_;
  packs_.clear();
  fill_packs(epoch);
  if (options_.drop_last) packs_.resize(packs_.size() - packs_.size() % static_cast<size_t>(options_.micro_batch_size));
  packed_epoch_ = epoch;
  return packs_;
}

void Batcher::fill_packs(int64_t epoch) const {
  const int64_t groups = set_.size() / options_.group_size;
  const Permutation order(groups, options_.seed, static_cast<uint64_t>(epoch));
  // Windows of the permuted order; full micro-batches fill one of the second kind exactly.
  const int64_t window = options_.packing ? kWindow : options_.group_by_length ? 50 * options_.micro_batch_size : groups;
  for (int64_t begin = 0; begin < groups; begin += window) {
    std::vector<int64_t> members;
    for (int64_t i = begin; i < std::min(groups, begin + window); ++i) members.push_back(options_.shuffle ? order[i] : i);
    const uint64_t deal_key = mix_key(static_cast<uint64_t>(epoch), static_cast<uint64_t>(begin));
    if (options_.packing) pack_window(std::move(members), deal_key);
    else if (options_.group_by_length) group_window(std::move(members), deal_key);
    else for (int64_t group : members) packs_.push_back({group});
  }
}

// Longest first into the fullest pack that still has room; ties by place, so the result is one and the same.
void Batcher::pack_window(std::vector<int64_t> groups, uint64_t deal_key) const {
  const int64_t room = std::max(options_.cutoff_len, capacity_.tokens / options_.micro_batch_size);
  std::stable_sort(groups.begin(), groups.end(), [&](int64_t a, int64_t b) { return group_tokens(a) > group_tokens(b); });
  std::multimap<int64_t, size_t> free;  // room left → pack
  const size_t first = packs_.size();
  for (int64_t group : groups) {
    const int64_t tokens = group_tokens(group);
    auto fit = free.lower_bound(tokens);
    size_t pack = packs_.size();
    int64_t left = room;
    if (fit != free.end()) {
      pack = fit->second;
      left = fit->first;
      free.erase(fit);
    } else {
      packs_.emplace_back();
    }
    packs_[pack].push_back(group);
    free.emplace(left - tokens, pack);
  }
  if (!options_.shuffle) {
    const auto first_of = [](const std::vector<int64_t>& pack) { return *std::min_element(pack.begin(), pack.end()); };
    std::sort(packs_.begin() + static_cast<ptrdiff_t>(first), packs_.end(), [&](const auto& a, const auto& b) { return first_of(a) < first_of(b); });
    return;
  }
  // Best fit leaves long sequences in front: deal the window's packs in an order of their own.
  const auto n = static_cast<int64_t>(packs_.size() - first);
  const Permutation deal(n, mix_key(options_.seed, 0x9ACCull), deal_key);
  std::vector<std::vector<int64_t>> dealt;
  for (int64_t i = 0; i < n; ++i) dealt.push_back(std::move(packs_[first + static_cast<size_t>(deal[i])]));
  std::move(dealt.begin(), dealt.end(), packs_.begin() + static_cast<ptrdiff_t>(first));
}

// Sorted by length and cut into micro-batches, which are dealt in an order of their own; one that is not full stays last.
void Batcher::group_window(std::vector<int64_t> groups, uint64_t deal_key) const {
  std::stable_sort(groups.begin(), groups.end(), [&](int64_t a, int64_t b) { return group_tokens(a) > group_tokens(b); });
  const int64_t b = options_.micro_batch_size, full = static_cast<int64_t>(groups.size()) / b;
  const Permutation deal(full, mix_key(options_.seed, 0x9ACCull), deal_key);
  for (int64_t i = 0; i < full; ++i)
    for (int64_t j = 0; j < b; ++j) packs_.push_back({groups[static_cast<size_t>((options_.shuffle ? deal[i] : i) * b + j)]});
  for (size_t j = static_cast<size_t>(full * b); j < groups.size(); ++j) packs_.push_back({groups[j]});
}

int64_t Batcher::steps_in_epoch(int64_t epoch) const {
  const int64_t per_step = options_.micro_batch_size * options_.micro_batches;
  return (static_cast<int64_t>(packs(epoch).size()) + per_step - 1) / per_step;
}

void Batcher::add_sample(MicroBatch& batch, int64_t sample, int32_t group) const {
  set_.weights(sample).copy_to(weights_);
  batch.add_sequence(sample, set_.ids(sample), weights_, group);
  SideValues& side = batch.side.back();
  if (set_.has_side(kReferenceLogp)) side.reference_logp = set_.side(kReferenceLogp, sample);
  if (set_.has_side(kMargin)) side.margin = set_.side(kMargin, sample);
  if (set_.has_side(kExtraWeight)) side.weight = 1 + set_.side(kExtraWeight, sample);
  if (set_.has_side(kDesirable)) side.desirable = set_.side(kDesirable, sample);
}

void Batcher::make_step(int64_t epoch, int64_t index, Step& step) const {
  const auto& all = packs(epoch);
  const int64_t per_step = options_.micro_batch_size * options_.micro_batches, begin = index * per_step;
  const int64_t end = std::min(static_cast<int64_t>(all.size()), begin + per_step);
  const int64_t used = (end - begin + options_.micro_batch_size - 1) / options_.micro_batch_size;
  step.micro_batches.resize(static_cast<size_t>(used));
  step.probes.resize(static_cast<size_t>(options_.probes ? used : 0));
  step.total_weight = 0;
  step.total_sequences = step.total_groups = 0;
  for (int64_t m = 0; m < used; ++m) {
    MicroBatch& batch = step.micro_batches[static_cast<size_t>(m)];
    batch.clear();
    if (options_.probes) step.probes[static_cast<size_t>(m)].clear();
    int32_t group_number = 0;
    for (int64_t p = begin + m * options_.micro_batch_size; p < std::min(end, begin + (m + 1) * options_.micro_batch_size); ++p) {
      for (int64_t group : all[static_cast<size_t>(p)]) {
        for (int64_t i = 0; i < options_.group_size; ++i)
          add_sample(i < learnt() ? batch : step.probes[static_cast<size_t>(m)], group * options_.group_size + i, group_number);
        ++group_number;
      }
    }
    step.total_weight += batch.total_weight();
    step.total_sequences += batch.sequence_count();
    step.total_groups += batch.groups;
  }
}

}  // namespace attune::data
