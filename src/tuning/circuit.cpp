#include "tuning/circuit.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace attune::tuning {
namespace {

// [[c, −s], [s, c]] on the pairs of states that differ in one qubit.
void rotate(double* psi, int64_t states, int64_t qubit, double c, double s) {
  const int64_t bit = int64_t{1} << qubit;
  for (int64_t i = 0; i < states; ++i) {
    if (i & bit) continue;
    const double zero = psi[i], one = psi[i | bit];
    psi[i] = c * zero - s * one;
    psi[i | bit] = s * zero + c * one;
  }
}

void cnot(double* psi, int64_t states, int64_t control, int64_t target) {
  const int64_t on = int64_t{1} << control, bit = int64_t{1} << target;
  for (int64_t i = 0; i < states; ++i)
    if ((i & on) && !(i & bit)) std::swap(psi[i], psi[i | bit]);
}

}  // namespace

Circuit Circuit::over(int64_t values) {
  Circuit c;
  while (c.states() < values) ++c.qubits;
  return c;
}

// The first layer makes every state as likely as any other; CNOTs and rotations by 0 leave that.
double Circuit::even_angle(int64_t i, int64_t qubits) { return i < qubits ? M_PI / 2 : 0; }

void Circuit::run(const float* angles, double* psi, int64_t derived) const {
  std::fill_n(psi, states(), 0.0);
  psi[0] = 1;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (int64_t q = 0; q < qubits; ++q) {
      const int64_t i = layer * qubits + q;
      const double half = static_cast<double>(angles[i]) / 2;
      if (i == derived) rotate(psi, states(), q, -std::sin(half) / 2, std::cos(half) / 2);
      else rotate(psi, states(), q, std::cos(half), std::sin(half));
    }
    for (int64_t q = 0; qubits > 1 && q < qubits; ++q) cnot(psi, states(), q, (q + 1) % qubits);
  }
}

}  // namespace attune::tuning
