// A small quantum circuit, simulated: `layers` times a rotation RY(θ) of each of n qubits and a ring of CNOTs, on |0…0⟩.
#pragma once

#include <cstdint>

namespace attune::tuning {

struct Circuit {
  int64_t qubits = 1;
  static constexpr int64_t kLayers = 2;

  // Enough qubits for `values` probabilities.
  static Circuit over(int64_t values);
  int64_t states() const { return int64_t{1} << qubits; }
  int64_t angles() const { return kLayers * qubits; }
  // Angles at which all probabilities are the same.
  static double even_angle(int64_t i, int64_t qubits);

  // The amplitudes ψ, real as all gates are; `psi` has states() elements. With `derived` ≥ 0: ∂ψ/∂θ[derived].
  void run(const float* angles, double* psi, int64_t derived = -1) const;
};

}  // namespace attune::tuning
