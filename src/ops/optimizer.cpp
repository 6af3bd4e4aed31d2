#include "ops/optimizer.h"

#include <algorithm>

#include "ops/backend.h"

namespace attune::ops {
namespace {

double sweep_bytes(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& t : tensors)
    if (t.defined()) bytes += static_cast<double>(t.count()) * static_cast<double>(size_of(t.dtype));
  return bytes;
}

void check_sizes(const char* op, const Stepped& s, std::initializer_list<Tensor> states) {
  const int64_t n = s.parameter.count();
  require(s.gradient.count() == n && (!s.copy.defined() || s.copy.count() == n) && (!s.anchor.defined() || s.anchor.count() == n),
          op, "parameter, gradient, copy and anchor have one size");
  require(s.parameter.contiguous() && s.gradient.contiguous(), op, "contiguous parameter and gradient");
  for (const Tensor& t : states) require(!t.defined() || t.count() == n, op, "states have the parameter's size");
}

void check_states(const char* op, const Stepped& s, std::initializer_list<State8bit> states) {
  check_sizes(op, s, {});
  require(s.first_element % kStateBlock == 0, op, "begins with a block");
  for (const State8bit& x : states)
    require(x.codes.dtype == DType::u8 && x.codes.count() == s.parameter.count() && x.scales.count() == state_blocks(s.parameter.count()), op,
            "codes of the parameter's size and a scale for each block");
}

void count(Context& context, const Stepped& s, double flops, std::initializer_list<Tensor> states) {
  context.count("optimizer", flops * static_cast<double>(s.parameter.count()),
                2 * (sweep_bytes({s.parameter}) + sweep_bytes(states)) + sweep_bytes({s.gradient, s.copy, s.anchor}));
}

}  // namespace

void adam(Context& context, const Adam& a) {
  check_sizes("adam", a.of, {a.m, a.v, a.highest});
  count(context, a.of, 15, {a.m, a.v, a.highest});
  if (!context.dry()) context.backend().adam(a);
}

void sgd(Context& context, const Sgd& a) {
  check_sizes("sgd", a.of, {a.buffer});
  count(context, a.of, 4, {a.buffer});
  if (!context.dry()) context.backend().sgd(a);
}

void lion(Context& context, const Lion& a) {
  check_sizes("lion", a.of, {a.m});
  count(context, a.of, 8, {a.m});
  if (!context.dry()) context.backend().lion(a);
}

void adam_8bit(Context& context, const Adam8bit& a) {
  check_states("adam_8bit", a.of, {a.m, a.v});
  count(context, a.of, 40, {a.m.codes, a.v.codes});
  if (!context.dry()) context.backend().adam_8bit(a);
}

void lion_8bit(Context& context, const Lion8bit& a) {
  check_states("lion_8bit", a.of, {a.m});
  count(context, a.of, 20, {a.m.codes});
  if (!context.dry()) context.backend().lion_8bit(a);
}

void adafactor(Context& context, Adafactor a) {
  check_sizes("adafactor", a.of, {a.v});
  const Tensor& p = a.of.parameter;
  require(a.v.defined() || (a.rows.cols == p.rows.count && a.cols.cols == p.cols), "adafactor", "one row state a row, one column state a column");
  count(context, a.of, 12, {a.v});
  ArenaScope scope(context.arena());
  if (!a.v.defined()) {
    a.partial = context.arena().matrix(Rows::exactly(Adafactor::kParts), p.cols, DType::f32);
    a.row_factor = context.arena().vector(p.rows.count, DType::f32);
    a.col_factor = context.arena().vector(p.cols, DType::f32);
  }
  if (!context.dry()) context.backend().adafactor(a);
}

void squared_norm(Context& context, SquaredNorm a) {
  context.count({"squared_norm", {}, {a.x.dtype}}, 0, {2.0 * static_cast<double>(a.x.count()), sweep_bytes({a.x})});
  const int64_t blocks = (a.x.count() + kSquaredNormBlock - 1) / kSquaredNormBlock;
  ArenaScope scope(context.arena());
  a.partial = static_cast<double*>(context.arena().allocate(static_cast<uint64_t>(blocks) * sizeof(double)));
  if (!context.dry()) context.backend().squared_norm(a);
}

double squared_norm(Context& context, const Tensor& x) {
  ArenaScope scope(context.arena());
  auto* sum = static_cast<double*>(context.arena().allocate(sizeof(double)));
  squared_norm(context, {x, sum});
  double value = 0;
  if (!context.dry()) context.device().download(&value, sum, sizeof value);
  return value;
}

}  // namespace attune::ops
