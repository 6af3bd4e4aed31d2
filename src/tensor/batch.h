// A micro-batch as the engine sees it: one flat stream of tokens, never a rectangle.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace attune {

// What memory is laid out for; real counts stay below.
struct BatchCapacity {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t label_rows = 0;
  int64_t max_seqlen = 0;
};

// What is known of a sequence beside its tokens.
struct SideValues {
  float reference_logp = 0;  // Σ weight·log-probability of its labels under the reference model
  float margin = 0;          // by how much the chosen answer of a pair is better
  float desirable = 1;       // of a judged answer: 1 good, 0 bad
  float weight = 1;          // of a pair or a judged answer: multiplies its loss
};

struct MicroBatch {
  std::vector<int32_t> tokens, positions;  // [N]; positions restart with each sequence
  std::vector<int64_t> sample_ids;         // [N]; with positions, the key of a token
  std::vector<int32_t> cu_seqlens{0};      // [S+1]
  std::vector<int64_t> sequence_samples;   // [S]: which sample a sequence is (side channels, messages)
  std::vector<int32_t> sequence_groups;    // [S]: sequences of one group (a preference pair …) share a number
  std::vector<SideValues> side;            // [S]
  std::vector<int32_t> label_rows;         // [R]: rows whose next token is a target
  std::vector<int32_t> labels;             // [R]
  std::vector<float> loss_weights;         // [R]
  int32_t groups = 0;

  int64_t token_count() const { return static_cast<int64_t>(tokens.size()); }
  int64_t sequence_count() const { return static_cast<int64_t>(sequence_samples.size()); }
  double total_weight() const {
    double sum = 0;
    for (float w : loss_weights) sum += w;
    return sum;
  }

  void clear() {
    tokens.clear(), positions.clear(), sample_ids.clear(), sequence_samples.clear(), sequence_groups.clear(), side.clear();
    label_rows.clear(), labels.clear(), loss_weights.clear();
    cu_seqlens.assign(1, 0);
    groups = 0;
  }

  // `weights[j]` is how much predicting token j counts; 0 masks it (the label −100). Token 0 has nothing before it.
  void add_sequence(int64_t sample, std::span<const int32_t> ids, std::span<const float> weights, int32_t group) {
    const auto start = static_cast<int32_t>(tokens.size());
    for (size_t j = 0; j < ids.size(); ++j) {
      tokens.push_back(ids[j]);
      positions.push_back(static_cast<int32_t>(j));
      sample_ids.push_back(sample);
      if (j > 0 && weights[j] != 0) {
        label_rows.push_back(start + static_cast<int32_t>(j) - 1);
        labels.push_back(ids[j]);
        loss_weights.push_back(weights[j]);
      }
    }
    cu_seqlens.push_back(static_cast<int32_t>(tokens.size()));
    sequence_samples.push_back(sample);
    sequence_groups.push_back(group);
    side.push_back({});
    if (group >= groups) groups = group + 1;
  }
};

// Everything one optimizer update learns from. The total is known before the first backward.
struct Step {
  std::vector<MicroBatch> micro_batches;
  std::vector<MicroBatch> probes;  // only looked at, before the first backward (KTO's mismatched answers)
  double total_weight = 0;
  int64_t total_sequences = 0;
  int64_t total_groups = 0;
};

}  // namespace attune
