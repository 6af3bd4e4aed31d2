// Block coordinate descent (BAdam, Luo et al. 2024): one decoder layer learns at a time, the others rest. Masters,
// gradients and optimizer states are those of one layer, and move on with it; a layer that begins has fresh states.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/decoder.h"

namespace attune::tuning {

struct RotationOptions {
  std::string mode = "ascending";  // ascending, descending, random (each layer once a round), fixed
  std::optional<int64_t> start;    // first layer; ascending: 0, descending: the last; fixed needs one
  int64_t interval = 50;           // updates until the next layer
  uint64_t seed = 42;
};

class BlockRotation {
 public:
  // Marks the parameters of all layers as rotating and everything else as frozen, then lets one layer learn: the one that
  // update 1 trains, or, for a dry run, the one that takes the most memory (the lowest: the way back to it is the longest).
  // Refuses layers that are not alike.
  BlockRotation(const RotationOptions& options, models::Decoder& model, bool dry);

  int64_t active() const { return active_; }
  // The layer that update `number` (from 1) trains, and how many updates it has been trained in this turn, this included.
  int64_t block_at(int64_t number) const;
  int64_t turn_update(int64_t number) const { return (number - 1) % options_.interval + 1; }

  // Hands memory of masters and gradients from the active layer to `block`. `moved(from, to)` is called for each pair of
  // parameters, for whoever keeps more by parameter. Masters are filled from the weights.
  template <class F>
  void move_to(int64_t block, F&& moved) {
    if (block == active_) return;
    for (size_t i = 0; i < blocks_[0].size(); ++i) {
      nn::Parameter &from = *layer(active_)[i], &to = *layer(block)[i];
      hand_over(from, to);
      moved(from, to);
    }
    active_ = block;
  }

 private:
  const std::vector<nn::Parameter*>& layer(int64_t block) const { return blocks_[static_cast<size_t>(block)]; }
  static void hand_over(nn::Parameter& from, nn::Parameter& to);

  RotationOptions options_;
  std::vector<std::vector<nn::Parameter*>> blocks_;
  int64_t active_ = 0;
};

}  // namespace attune::tuning
