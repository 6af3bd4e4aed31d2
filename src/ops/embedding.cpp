#include "ops/embedding.h"

#include "ops/backend.h"

namespace attune::ops {

void embedding_forward(Context& context, const EmbeddingForward& a) {
  require(a.ids.cols == a.y.rows.count && a.weight.cols == a.y.cols, "embedding", "y is [N,d]");
  context.count({"embedding_forward", {a.y.cols}, {a.y.dtype}}, static_cast<double>(a.y.rows.count),
                {0, 2.0 * static_cast<double>(a.y.count()) * size_of(a.y.dtype)});
  if (!context.dry()) context.backend().embedding_forward(a);
}

void embedding_backward(Context& context, const EmbeddingBackward& args) {
  EmbeddingBackward a = args;
  require(a.ids.cols == a.dy.rows.count && a.dweight.cols == a.dy.cols, "embedding_backward", "dy is [N,d]");
  context.count({"embedding_backward", {a.dy.cols}, {a.dy.dtype}}, static_cast<double>(a.dy.rows.count),
                {static_cast<double>(a.dy.count()), 3.0 * static_cast<double>(a.dy.count()) * size_of(a.dy.dtype)});
  const ArenaPart workspace(context.arena(), "workspace");
  a.order = context.arena().vector(a.dy.rows.capacity, DType::i32);
  if (!context.dry()) context.backend().embedding_backward(a);
}

void embedding_noise(Context& context, const EmbeddingNoise& a) {
  require(a.alpha > 0 && a.positions.cols >= a.x.rows.count, "embedding_noise", "alpha > 0 and a position for each row");
  context.count({"embedding_noise", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {2.0 * static_cast<double>(a.x.count()), 2.0 * static_cast<double>(a.x.count()) * size_of(a.x.dtype)});
  if (!context.dry()) context.backend().embedding_noise(a);
}

}  // namespace attune::ops
