#include "tuning/block_rotation.h"

#include <numeric>

#include "tensor/transfer.h"
#include "tuning/tuner.h"
#include "util/error.h"
#include "util/rng.h"

namespace attune::tuning {

BlockRotation::BlockRotation(const RotationOptions& options, models::Decoder& model, bool dry) : options_(options) {
  const int64_t layers = model.config().num_hidden_layers;
  blocks_.resize(static_cast<size_t>(layers));
  for (const auto& p : model.parameters().all()) {
    p->trainable = false;
    const auto index = layer_of(p->name);
    p->rotates = index.has_value();
    if (index) blocks_[static_cast<size_t>(*index)].push_back(p.get());
  }
  if (options.mode == "fixed" && !options.start) refuse("badam_start_block is missing: badam_switch_mode: fixed trains that layer alone");
  if (!options_.start) options_.start = options.mode == "descending" ? layers - 1 : 0;
  if (*options_.start < 0 || *options_.start >= layers)
    refuse("badam_start_block: {} is not a layer of this model; it has 0 to {}", *options_.start, layers - 1);
  for (const auto& block : blocks_)
    for (size_t i = 0; i < block.size(); ++i)
      if (block.size() != blocks_[0].size() || block[i]->shape != blocks_[0][i]->shape)
        refuse("use_badam: layers of different shapes cannot take turns in one another's memory ({} is not like {})", block[i]->name,
               blocks_[0][std::min(i, blocks_[0].size() - 1)]->name);
  active_ = !dry ? block_at(1) : options_.mode == "fixed" ? *options_.start : 0;
  for (nn::Parameter* p : layer(active_)) p->trainable = true;
}

int64_t BlockRotation::block_at(int64_t number) const {
  const auto layers = static_cast<int64_t>(blocks_.size());
  const int64_t turn = (number - 1) / options_.interval;
  if (options_.mode == "fixed") return *options_.start;
  if (options_.mode == "ascending") return (*options_.start + turn) % layers;
  if (options_.mode == "descending") return ((*options_.start - turn) % layers + layers) % layers;
  std::vector<int64_t> order(blocks_.size());
  std::iota(order.begin(), order.end(), 0);
  const uint64_t key = mix_key(options_.seed, 0xB10C, static_cast<uint64_t>(turn / layers));
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[element_bits(key, i) % (i + 1)]);
  return order[static_cast<size_t>(turn % layers)];
}

void BlockRotation::hand_over(nn::Parameter& from, nn::Parameter& to) {
  to.master = from.master;
  to.gradient = from.gradient;
  to.gradient_dtype = from.gradient_dtype;
  from.master = from.gradient = {};
  from.trainable = false;
  to.trainable = true;
  to.gradient_written = false;
  if (to.master.defined()) convert_on(*to.device, to.weight, to.master);
}

}  // namespace attune::tuning
