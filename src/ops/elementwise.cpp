#include "ops/elementwise.h"

#include "ops/backend.h"

namespace attune::ops {
namespace {

double bytes_of(const Tensor& t) { return static_cast<double>(t.count()) * static_cast<double>(size_of(t.dtype)); }
bool same_shape(const Tensor& a, const Tensor& b) { return a.rows.count == b.rows.count && a.cols == b.cols; }

}  // namespace

void add(Context& context, const Add& a) {
  require(same_shape(a.a, a.b) && same_shape(a.a, a.out), "add", "one shape");
  context.count({"add", {a.a.cols}, {a.a.dtype}}, static_cast<double>(a.a.rows.count),
                {static_cast<double>(a.a.count()), bytes_of(a.a) + bytes_of(a.b) + bytes_of(a.out)});
  if (!context.dry()) context.backend().add(a);
}

void add_bias(Context& context, const AddBias& a) {
  require(a.bias.cols == a.x.cols, "add_bias", "bias is [d]");
  context.count({"add_bias", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {static_cast<double>(a.x.count()), 2 * bytes_of(a.x)});
  if (!context.dry()) context.backend().add_bias(a);
}

void sum_rows(Context& context, SumRows a) {
  require(a.out.cols == a.x.cols, "sum_rows", "out is [d]");
  context.count({"sum_rows", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {static_cast<double>(a.x.count()), bytes_of(a.x)});
  const ArenaPart workspace(context.arena(), "workspace");
  a.partial = context.arena().matrix(Rows::exactly(context.backend().threads()), a.x.cols, DType::f32);
  if (!context.dry()) context.backend().sum_rows(a);
}

void scale(Context& context, const Scale& a) {
  require(same_shape(a.from, a.to), "scale", "one shape");
  context.count({"scale", {a.from.cols}, {a.from.dtype}}, static_cast<double>(a.from.rows.count),
                {static_cast<double>(a.from.count()), bytes_of(a.from) + bytes_of(a.to)});
  if (!context.dry()) context.backend().scale(a);
}

void fill_zero(Context& context, const Tensor& x) {
  context.count({"fill_zero", {x.cols}, {x.dtype}}, static_cast<double>(x.rows.count), {0, bytes_of(x)});
  if (!context.dry()) context.backend().fill_zero(x);
}

void gather_rows(Context& context, const GatherRows& a) {
  require(a.rows.cols == a.out.rows.count && a.out.cols == a.x.cols && a.out.dtype == a.x.dtype, "gather_rows", "out is [R,d]");
  context.count({"gather_rows", {a.out.cols}, {a.out.dtype}}, static_cast<double>(a.out.rows.count), {0, 2 * bytes_of(a.out)});
  if (!context.dry()) context.backend().gather_rows(a);
}

void scatter_rows(Context& context, const ScatterRows& a) {
  require(a.rows.cols == a.x.rows.count && a.out.cols == a.x.cols && a.out.dtype == a.x.dtype, "scatter_rows", "x is [R,d]");
  context.count({"scatter_rows", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count), {0, 2 * bytes_of(a.x)});
  if (!context.dry()) context.backend().scatter_rows(a);
}

void dropout(Context& context, const Dropout& a) {
  require(same_shape(a.x, a.y) && a.p >= 0 && a.p < 1, "dropout", "one shape and 0 ≤ p < 1");
  context.count({"dropout", {a.x.cols}, {a.x.dtype}}, static_cast<double>(a.x.rows.count),
                {static_cast<double>(a.x.count()), bytes_of(a.x) + bytes_of(a.y)});
  if (!context.dry()) context.backend().dropout(a);
}

}  // namespace attune::ops
