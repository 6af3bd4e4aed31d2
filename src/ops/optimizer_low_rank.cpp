#include "ops/optimizer_low_rank.h"

#include <algorithm>

#include "ops/backend.h"
#include "tensor/transfer.h"

namespace attune::ops {
namespace {

double elements(const Tensor& t) { return static_cast<double>(t.count()); }
double bytes_of(const Tensor& t) { return elements(t) * static_cast<double>(size_of(t.dtype)); }

// The host's, for a device that has none: once in hundreds of updates.
void singular_vectors_on_host(Device& device, SingularVectors a) {
  const std::vector<float> matrix = floats_of(device, a.matrix);
  std::vector<float> out(static_cast<size_t>(a.out.count()));
  SingularVectors here{Tensor::matrix(const_cast<float*>(matrix.data()), DType::f32, a.matrix.rows.count, a.matrix.cols),
                       Tensor::matrix(out.data(), DType::f32, a.out.rows.count, a.out.cols), a.right};
  std::vector<std::byte> workspace(cpu_backend().singular_vectors_workspace(here));
  here.workspace = workspace.data();
  cpu_backend().singular_vectors(here);
  put(device, a.out, 0, out);
}

}  // namespace

void random_projection(Context& context, const RandomProjection& a) {
  require(a.out.contiguous() && (a.out.dtype == DType::f32 || a.out.dtype == DType::bf16), "random_projection", "contiguous f32 or bf16");
  context.count("optimizer", 40 * elements(a.out), bytes_of(a.out));
  if (!context.dry()) context.backend().random_projection(a);
}

void singular_vectors(Context& context, SingularVectors a) {
  const int64_t rows = a.matrix.rows.count, cols = a.matrix.cols, small = std::min(rows, cols);
  require(a.out.rows.count <= small && a.out.cols == (a.right ? cols : rows), "singular_vectors", "out is [rank, R or C], rank within both");
  context.count("optimizer", 2 * elements(a.matrix) * static_cast<double>(small) + 10 * static_cast<double>(small) * static_cast<double>(small) * static_cast<double>(small),
                bytes_of(a.matrix));
  if (!context.backend().singular_vectors) {
    if (!context.dry()) singular_vectors_on_host(context.device(), a);
    return;
  }
  ArenaScope scope(context.arena());
  a.workspace = context.arena().allocate(context.backend().singular_vectors_workspace(a));
  if (!context.dry()) context.backend().singular_vectors(a);
}

void channel_sums(Context& context, ChannelSums a) {
  const int64_t channels = a.columns ? a.gradient.cols : a.gradient.rows.count;
  require(a.gradient.contiguous() && a.squares.cols == channels, "channel_sums", "a contiguous gradient and one sum a channel");
  require(!a.direction.defined() || (a.products.cols == channels && a.direction.cols * channels == a.gradient.count() && a.direction.dtype == DType::f32),
          "channel_sums", "an f32 direction as long as a channel");
  context.count("optimizer", 4 * elements(a.gradient), bytes_of(a.gradient));
  ArenaScope scope(context.arena());
  if (a.columns) a.partial = context.arena().matrix(Rows::exactly(2 * ChannelSums::kParts), channels, DType::f32);
  if (!context.dry()) context.backend().channel_sums(a);
}

void apollo_factors(Context& context, const ApolloFactors& a) {
  require(a.low.count() == a.m.count() && a.low.count() == a.v.count() && a.low.count() % a.factors.cols == 0 && a.squares.cols == a.factors.cols,
          "apollo_factors", "moments of the projection's size, one factor a channel");
  context.count("optimizer", 12 * elements(a.low), 5 * bytes_of(a.low));
  if (!context.dry()) context.backend().apollo_factors(a);
}

void scaled_step(Context& context, const ScaledStep& a) {
  require(a.of.gradient.count() == a.of.parameter.count() && a.of.parameter.contiguous() && a.of.gradient.contiguous(), "scaled_step",
          "contiguous parameter and gradient of one size");
  require(a.factors.cols == (a.columns ? a.of.parameter.cols : a.of.parameter.rows.count), "scaled_step", "one factor a channel");
  context.count("optimizer", 4 * elements(a.of.parameter), 2 * bytes_of(a.of.parameter) + bytes_of(a.of.gradient));
  if (!context.dry()) context.backend().scaled_step(a);
}

}  // namespace attune::ops
