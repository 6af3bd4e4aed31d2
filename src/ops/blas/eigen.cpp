#include "ops/blas/eigen.h"

#include <Eigen/Dense>
#include <algorithm>
#include <vector>

namespace attune::ops::eigen {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<Matrix>;

constexpr int64_t kRows = 256;  // taken into double at a time

// Rows [begin, begin + n) in double.
View rows_of(const Tensor& t, int64_t begin, int64_t n, double* memory) {
  View out(memory, n, t.cols);
  std::vector<float> row(static_cast<size_t>(t.cols));
  for (int64_t i = 0; i < n; ++i) {
    convert(t.row<char>(0) + static_cast<uint64_t>((begin + i) * t.stride) * size_of(t.dtype), t.dtype, row.data(), DType::f32, row.size());
    for (int64_t j = 0; j < t.cols; ++j) out(i, j) = row[static_cast<size_t>(j)];
  }
  return out;
}

// The largest component is positive. A sign means nothing to one projection, but the moments of the last one go on.
template <class V>
void store(const V& x, const Tensor& out, int64_t k) {
  Eigen::Index largest = 0;
  x.cwiseAbs().maxCoeff(&largest);
  const double sign = x(largest) < 0 ? -1.0 : 1.0;
  std::vector<float> row(static_cast<size_t>(out.cols));
  for (int64_t j = 0; j < out.cols; ++j) row[static_cast<size_t>(j)] = static_cast<float>(sign * x(j));
  convert(row.data(), DType::f32, static_cast<char*>(out.data) + static_cast<uint64_t>(k * out.stride) * size_of(out.dtype), out.dtype, row.size());
}

}  // namespace

// The Gram matrix, what Eigen takes from the heap for its vectors, and the matrix in double: all of it (the wide case)
// or a slab of rows.
uint64_t workspace(const SingularVectors& a) {
  const int64_t rows = a.matrix.rows.count, cols = a.matrix.cols, small = std::min(rows, cols);
  return static_cast<uint64_t>(2 * small * small + (rows < cols ? rows : std::min(rows, kRows)) * cols) * sizeof(double);
}

void singular_vectors(const SingularVectors& a) {
  const int64_t rows = a.matrix.rows.count, cols = a.matrix.cols, small = std::min(rows, cols), rank = a.out.rows.count;
  const bool wide = rows < cols;
  auto* memory = static_cast<double*>(a.workspace);
  View gram(memory, small, small);
  double* slab = memory + 2 * small * small;
  if (wide) {
    const View g = rows_of(a.matrix, 0, rows, slab);
    gram.noalias() = g * g.transpose();
  } else {
    gram.setZero();
    for (int64_t i = 0; i < rows; i += kRows) {
      const View g = rows_of(a.matrix, i, std::min(kRows, rows - i), slab);
      gram.noalias() += g.transpose() * g;
    }
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);  // eigenvalues ascend
  if (a.right != wide) {
    for (int64_t k = 0; k < rank; ++k) store(solver.eigenvectors().col(small - 1 - k), a.out, k);
    return;
  }
  // The vectors of the other side: G·v or Gᵀ·u, at length 1.
  for (int64_t k = 0; k < rank; ++k) {
    const Eigen::VectorXd vector = solver.eigenvectors().col(small - 1 - k);
    Eigen::VectorXd other(wide ? cols : rows);
    if (wide) other.noalias() = View(slab, rows, cols).transpose() * vector;
    else
      for (int64_t i = 0; i < rows; i += kRows) {
        const int64_t n = std::min(kRows, rows - i);
        other.segment(i, n).noalias() = rows_of(a.matrix, i, n, slab) * vector;
      }
    const double norm = other.norm();
    if (norm > 0) other /= norm;
    store(other, a.out, k);
  }
}

}  // namespace attune::ops::eigen
