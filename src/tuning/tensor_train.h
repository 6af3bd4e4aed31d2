// Adapters in tensor-train form: A and B of LoRA come out of matrix product operators of two cores each (Oseledets 2011;
// for adapters Yang et al. 2024, LoRETTA), and those cores alone are trained.
//
//   A[(k1 k2), (j1 j2)] = Σ_b G1[(k1 j1), b] · G2[b, (k2 j2)]     k = (k1 k2) < r,  j = (j1 j2) < in,  b < bond
//
// and Bᵀ [r, out] alike. Each size is split as near to a square as its divisors allow. The weighted variant, after the
// quantum tensor hybrid of Kong et al. 2025 (arXiv:2503.12790), multiplies column k of B by w_k = 2ⁿ·|ψ_k(θ)|², ψ the state
// of n = ⌈log₂ r⌉ qubits behind layers of rotations RY(θ) and rings of CNOTs, simulated; θ is trained too.
//
// Everything else sees plain LoRA: A and B are parameters of their own that are `derived`.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "models/decoder.h"
#include "ops/backend.h"
#include "util/files.h"

namespace attune::tuning {

constexpr const char* kCoresFile = "tensor_train.safetensors";  // beside adapter_model.safetensors

struct TensorTrainOptions {
  int64_t bond = 0;  // 0: plain LoRA. A matrix that needs less for every value it can have takes less
  bool weighted = false;
  bool on() const { return bond > 0; }
};

// Behind models::attach_adapter: makes every A and B derived and declares what they come from, "….tt_A.0" [r1·in1, bond],
// "….tt_A.1" [bond, r2·in2], "….tt_B.0", "….tt_B.1" and "….tt_angles". Refuses adapters outside of the layers.
void declare_cores(const TensorTrainOptions& options, models::Decoder& model);

// A has the variance that LoRA's has, B is 0 (its second core is), every column's weight is 1. A function of seed and name.
void begin_cores(models::Decoder& model, uint64_t seed);

// The options that a directory's cores were written with; off where it has none.
TensorTrainOptions read_tensor_train(const fs::path& directory);
void save_cores(const fs::path& directory, const TensorTrainOptions& options, const models::Decoder& model);
// Fills cores, A and B; nothing where the model has no cores. Behind models::load_adapter of the same directory: refuses cores
// that its A and B do not follow from.
void load_cores(const fs::path& directory, models::Decoder& model);

// What a step does with them.
class TensorTrain {
 public:
  explicit TensorTrain(models::Decoder& model);

  // A and B from the cores (their fp32 masters where there are any), in fp32 and rounded once.
  void compose(ops::Context& context) const;
  // The gradients of the cores from that of a derived parameter; both must have storage, that of the cores fp32. Overwrites.
  void backward(ops::Context& context, const nn::Parameter& derived) const;

  const std::vector<nn::Parameter*>& cores_of(const nn::Parameter& derived) const;
  std::vector<nn::Parameter*> cores() const;

 private:
  struct Train {
    nn::Parameter* product = nullptr;
    std::vector<nn::Parameter*> cores;  // two, and angles
    int64_t k1 = 0, k2 = 0, j1 = 0, j2 = 0, bond = 0;
    bool transposed = false;  // B [out, r]
    int64_t rank() const { return k1 * k2; }
  };
  static Tensor product(ops::Context& context, const Train& train);
  // Trains are small and their sums are the host's: where `context` computes elsewhere, one beside it. Null: nothing to count.
  ops::Context* on_host(ops::Context& context) const;

  struct Beside {
    Arena arena{Place::host(), uint64_t{1} << 36};  // of which only what is used is taken
    ops::Context context{ops::cpu_backend(), arena};
  };
  mutable std::unique_ptr<Beside> beside_;
  std::vector<Train> trains_;
  std::map<const nn::Parameter*, size_t> by_product_;
};

}  // namespace attune::tuning
