#include "plan/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "ops/backend.h"
#include "ops/dequantize.h"
#include "tensor/transfer.h"
#include "util/machine.h"

namespace attune::plan {

namespace {

// 0.01 in bf16 and fp32, 1 in fp16: plain numbers, so that no arithmetic meets a special case.
constexpr uint16_t kPattern = 0x3C23;
void fill(Device& device, void* memory, uint64_t bytes) {
  write_pieces(device, memory, bytes, [](uint64_t, std::span<char> piece) {
    std::fill_n(reinterpret_cast<uint16_t*>(piece.data()), piece.size() / 2, kPattern);
  });
}

}  // namespace

// Operands, each from memory that was not touched for a while: in a step, too, much happens between two uses of a weight.
class Calibration::Operands {
 public:
  Operands(Device& device, uint64_t bytes) : arena_(device, bytes), indices_(device, 8 * kMostRows + 4096) {
    const auto pages = static_cast<int64_t>(bytes / kPage);
    char* all = static_cast<char*>(arena_.allocate(static_cast<uint64_t>(pages) * kPage));
    const double start = seconds_now();
    if (device.is_host()) {
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < pages; ++i) fill(device, all + i * kPage, kPage);
      touch_seconds_per_byte_ = (seconds_now() - start) / static_cast<double>(bytes);
    } else {
      fill(device, all, static_cast<uint64_t>(pages) * kPage);
    }
    arena_.release(0);
    rows_ = indices_.vector(kMostRows, DType::i32);
    zeros_ = indices_.vector(kMostRows, DType::i32);
    boundaries_ = indices_.vector(2, DType::i32);
    std::vector<int32_t> numbers(kMostRows);
    device.upload(zeros_.data, numbers.data(), zeros_.bytes());
    std::iota(numbers.begin(), numbers.end(), 0);
    device.upload(rows_.data, numbers.data(), rows_.bytes());
  }
  static constexpr int64_t kMostRows = 1 << 16;
  double touch_seconds_per_byte() const { return touch_seconds_per_byte_; }
  Tensor matrix(int64_t rows, int64_t cols, DType dtype) {
    const uint64_t bytes = static_cast<uint64_t>(rows * cols) * size_of(dtype) + 64;
    if (arena_.used() + bytes > arena_.capacity()) arena_.release(0);
    return arena_.matrix(Rows::exactly(rows), cols, dtype);
  }
  Tensor vector(int64_t n, DType dtype) { return matrix(1, n, dtype); }
  Tensor rows(int64_t n) const { return rows_.columns(0, n); }    // 0, 1, 2 …
  Tensor zeros(int64_t n) const { return zeros_.columns(0, n); }
  // Of one sequence.
  Tensor boundaries(int64_t length) {
    const int32_t both[] = {0, static_cast<int32_t>(length)};
    indices_.device().upload(boundaries_.data, both, sizeof both);
    return boundaries_;
  }

 private:
  static constexpr int64_t kPage = 4096;
  Arena arena_, indices_;
  Tensor rows_, zeros_, boundaries_;
  double touch_seconds_per_byte_ = 0;
};

namespace {

using ops::Job;
using ops::Ledger;

// Larger weights are cut: what does not fit into any cache runs no slower for being larger.
constexpr int64_t kWeightElements = 8 << 20;
constexpr int64_t kSweepElements = 4 << 20;
constexpr int64_t kSequence = 2048;  // attention over longer sequences costs the same per pair

double amount_of(const Job& job, const Ledger::Entry& e) { return is_product(job) || is_attention(job) ? e.work.flops : e.work.bytes; }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class F>
double timed(Device& device, F&& call) {
  const double start = seconds_now();
  call();
  device.synchronize();
  return seconds_now() - start;
}

struct Shape {
  int64_t rows, x, y;
};

// The same product with fewer rows and, where the weight is huge, a part of it.
Shape cut(const Job& job, int64_t rows, uint64_t memory) {
  int64_t x = job.shape[0], y = job.shape[1];
  const auto elements = std::min<int64_t>(kWeightElements, static_cast<int64_t>(memory) / 16);
  while (x * y > elements) (x > y ? x : y) = std::max<int64_t>(1, (x > y ? x : y) / 2);
  while (rows > 16 && rows * (x + y) > elements) rows /= 2;
  return {rows, x, y};
}

void run_product(ops::Context& context, Calibration::Operands& from, const Job& job, const Shape& s) {
  ops::Gemm g;
  g.accumulate = job.accumulate;
  const auto [a, b, c] = job.dtypes;
  if (job.op == "gemm_tn") {
    g.transpose_a = true;
    g.a = from.matrix(s.rows, s.x, a), g.b = from.matrix(s.rows, s.y, b), g.c = from.matrix(s.x, s.y, c);
  } else {
    g.transpose_b = job.op == "gemm_nt";
    g.a = from.matrix(s.rows, s.y, a), g.c = from.matrix(s.rows, s.x, c);
    g.b = g.transpose_b ? from.matrix(s.x, s.y, b) : from.matrix(s.y, s.x, b);
  }
  ops::gemm(context, g);
}

void run_attention(ops::Context& context, Calibration::Operands& from, const Job& job, int64_t length) {
  ops::AttentionShape s;
  s.heads = job.shape[0], s.kv_heads = job.shape[1], s.head_dim = job.shape[2];
  s.scale = 0.1f;
  s.max_q = s.max_k = length;
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
  s.pairs = static_cast<double>(length * length);
  const Tensor cu = from.boundaries(length), qkv = from.matrix(length, q + 2 * kv, job.dtypes[0]);
  const Tensor out = from.matrix(length, q, job.dtypes[0]), lse = from.matrix(length, s.heads, DType::f32);
  const auto part = [&](int64_t begin, int64_t n) { return qkv.columns(begin, n); };
  if (job.op == "attention_forward") {
    ops::attention_forward(context, {s, part(0, q), part(q, kv), part(q + kv, kv), cu, cu, out, lse, {}});
  } else {
    const Tensor dout = from.matrix(length, q, job.dtypes[0]);
    ops::attention_backward(context, {s, part(0, q), part(q, kv), part(q + kv, kv), cu, cu, out, lse, dout, part(0, q), part(q, kv),
                                      part(q + kv, kv), {}});
  }
}

void run_dequantize(ops::Context& context, Calibration::Operands& from, const Job& job, int64_t rows, const Quantization& how) {
  const auto bytes = static_cast<int64_t>(QuantizedMatrix::bytes(how, rows, job.shape[0]));
  const auto matrix = QuantizedMatrix::over(from.vector(bytes, DType::u8).data, how, rows, job.shape[0]);
  ops::dequantize(context, {matrix, 0, 0, from.matrix(rows, job.shape[0], job.dtypes[0])});
}

// What streams through memory, one call each on [rows, columns] of the job's dtype.
using Stream = void (*)(ops::Context&, Calibration::Operands&, const Job&, int64_t rows);
const std::map<std::string_view, Stream>& streams() {
  static const std::map<std::string_view, Stream> all{
      {"rms_norm_forward", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::rms_norm_forward(c, {o.matrix(r, j.shape[0], j.dtypes[0]), o.vector(j.shape[0], j.dtypes[0]), 1e-6f,
                                   o.matrix(r, j.shape[0], j.dtypes[0]), o.vector(r, DType::f32), 0});
       }},
      {"rms_norm_backward", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::RmsNormBackward a;
         a.x = o.matrix(r, j.shape[0], j.dtypes[0]), a.dy = o.matrix(r, j.shape[0], j.dtypes[0]), a.dx = o.matrix(r, j.shape[0], j.dtypes[0]);
         a.weight = o.vector(j.shape[0], j.dtypes[0]), a.rstd = o.vector(r, DType::f32), a.dweight = o.vector(j.shape[0], j.dtypes[0]);
         a.accumulate_dx = true;
         ops::rms_norm_backward(c, a);
       }},
      {"swiglu_forward", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::swiglu_forward(c, {o.matrix(r, j.shape[0], j.dtypes[0]), o.matrix(r, j.shape[0] / 2, j.dtypes[0])});
       }},
      {"swiglu_backward", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         const Tensor x = o.matrix(r, 2 * j.shape[0], j.dtypes[0]);
         ops::swiglu_backward(c, {x, o.matrix(r, j.shape[0], j.dtypes[0]), x});
       }},
      {"rope", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         const int64_t d = j.shape[0] % 64 == 0 ? 64 : j.shape[0];
         ops::rope(c, {o.matrix(r, j.shape[0], j.dtypes[0]), o.rows(r), o.matrix(r, d / 2 * 2, DType::f32), j.shape[0] / d, false});
       }},
      {"add", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         const Tensor out = o.matrix(r, j.shape[0], j.dtypes[0]);
         ops::add(c, {o.matrix(r, j.shape[0], j.dtypes[0]), out, out});
       }},
      {"token_logprob", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::token_logprob(c, {o.matrix(r, j.shape[0], DType::f32), o.zeros(r), o.vector(r, DType::f32), o.vector(r, DType::f32), o.vector(r, DType::f32)});
       }},
      {"logprob_slab", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::logprob_slab(c, {o.matrix(r, j.shape[0], DType::f32), o.zeros(r), o.matrix(r, ops::SlabColumn::count, DType::f32), 0});
       }},
      {"logit_gradient", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) {
         ops::logit_gradient(c, {o.matrix(r, j.shape[0], DType::f32), o.zeros(r), o.vector(r, DType::f32), o.vector(r, DType::f32), DType::bf16});
       }},
      {"dequantize_4bit", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) { run_dequantize(c, o, j, r, {QuantType::nf4, true}); }},
      {"dequantize_8bit", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) { run_dequantize(c, o, j, r, {QuantType::int8}); }},
      {"squared_norm", [](ops::Context& c, Calibration::Operands& o, const Job& j, int64_t r) { ops::squared_norm(c, o.matrix(r, 1024, j.dtypes[0])); }},
  };
  return all;
}

// Which parameter's shape stands for all: that of most elements.
const nn::Parameter* typical(const models::Decoder& model) {
  std::map<std::vector<int64_t>, int64_t> elements;
  const nn::Parameter* most = nullptr;
  for (const auto& p : model.parameters().all())
    if (p->is_stepped() && (elements[p->shape] += p->count(), !most || elements[p->shape] > elements[most->shape])) most = p.get();
  return most;
}

std::string update_key(const train::EngineOptions& o, const nn::Parameter& p) {
  return fmt::format("{} {} {} {} {} {}", o.optimizer.name, name_of(o.compute), o.masters, name_of(p.gradient_dtype),
                     name_of(o.optimizer.state_dtype), o.optimizer.anchor_decay > 0);
}

// A parameter with gradient and states, and the real optimizer that steps it.
class Sweep {
 public:
  Sweep(const train::EngineOptions& options, const nn::Parameter& like, uint64_t memory) {
    Device& device = options.backend->device();
    std::vector<int64_t> shape = like.shape;
    const auto most = std::min<int64_t>(kSweepElements, static_cast<int64_t>(memory) / 24);
    const auto count = [&] { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()); };
    while (count() > most) *std::max_element(shape.begin(), shape.end()) /= 2;
    parameter_ = &store_.add(like.name, shape);
    parameter_->gradient_dtype = like.gradient_dtype;
    store_.allocate_weights(device, options.compute);
    if (options.masters) store_.allocate_masters(device);
    store_.allocate_gradients(device, {parameter_});
    if (options.optimizer.anchor_decay > 0) store_.allocate_anchors(device, options.anchor_dtype);
    for (const Tensor* t : {&parameter_->weight, &parameter_->master, &parameter_->gradient})
      if (t->defined()) fill(device, t->data, t->bytes());
    optimizer_ = optim::Optimizer::create(options.optimizer);
    optimizer_->allocate(device, store_);
  }
  void operator()(ops::Context& context) { optimizer_->step(context, *parameter_, ++step_, 1e-6f, 1.0f); }
  // A step that makes projections anew.
  void refresh(ops::Context& context) {
    step_ = 0;
    (*this)(context);
  }
  double elements() const { return static_cast<double>(parameter_->count()); }

 private:
  nn::ParameterStore store_;
  nn::Parameter* parameter_;
  std::unique_ptr<optim::Optimizer> optimizer_;
  int64_t step_ = 0;
};

}  // namespace

MachinePace measure_pace(DType compute, double seconds, const ops::Backend& backend) {
  Device& device = backend.device();
  Arena arena(device, uint64_t{1} << 28);
  ops::Context context(backend, arena);
  constexpr int64_t kSize = 768, kCount = 4 << 20;
  const auto filled = [&](int64_t rows, int64_t cols, DType dtype) {
    const Tensor t = arena.matrix(Rows::exactly(rows), cols, dtype);
    fill(device, t.data, t.bytes());
    return t;
  };
  const Tensor a = filled(kSize, kSize, compute), b = filled(kSize, kSize, compute), c = filled(kSize, kSize, compute);
  const Tensor x = filled(1024, kCount / 1024, DType::f32), y = filled(1024, kCount / 1024, DType::f32);
  const auto rate = [&](double amount, auto&& call) {
    call();
    std::vector<double> times;
    for (const double start = seconds_now(); times.empty() || seconds_now() - start < seconds / 2;) times.push_back(timed(device, call));
    return amount / median(times);
  };
  return {rate(2.0 * kSize * kSize * kSize, [&] { ops::gemm(context, {a, b, c, false, true, false}); }),
          rate(12.0 * kCount, [&] { ops::scale(context, {x, y, 1.0f, true}); })};
}

struct Calibration::Measurement {
  std::function<void()> call;
  Rate* into;
  std::vector<double> times = {};
};

Calibration::Calibration(double seconds, uint64_t memory, const ops::Backend& backend) : backend_(backend), budget_(seconds) {
  operands_bytes_ = std::clamp<uint64_t>(memory, uint64_t{16} << 20, uint64_t{128} << 20);
  arena_ = std::make_unique<Arena>(backend.device(), uint64_t{1} << 34);
  context_ = std::make_unique<ops::Context>(backend, *arena_);
}

Calibration::~Calibration() = default;

void Calibration::measure(const Ledger& ledger, const train::EngineOptions& options, const models::Decoder& model) {
  const double start = seconds_now();
  if (budget_ <= 0) return;
  if (!matrix_flops_.count(options.compute)) {
    const MachinePace pace = measure_pace(options.compute, std::min(0.1, budget_ / 8), backend_);
    matrix_flops_[options.compute] = pace.matrix_flops;
    axpy_bytes_ = pace.axpy_bytes;
  }
  if (!operands_) {
    operands_ = std::make_unique<Operands>(backend_.device(), operands_bytes_);
    touch_seconds_per_byte_ = operands_->touch_seconds_per_byte();
  }
  Operands& operands = *operands_;
  std::vector<Measurement> all;
  const int64_t most_rows = rows_within(ledger, (budget_ - (seconds_now() - start)) / 5, matrix_flops_.at(options.compute));
  for (const auto& [job, entry] : ledger.entries()) {
    if (entry.calls <= 0 || rates_.count(job)) continue;
    const auto mean_rows = static_cast<int64_t>(entry.rows / entry.calls);
    Rate& rate = rates_[job];
    const Job j = job;
    if (is_product(job)) {
      const Shape s = cut(job, std::clamp<int64_t>(mean_rows, 1, most_rows), operands_bytes_);
      rate.amount = 2.0 * static_cast<double>(s.rows * s.x) * static_cast<double>(s.y);
      all.push_back({[this, &operands, j, s] { run_product(*context_, operands, j, s); }, &rate});
    } else if (is_attention(job) && entry.work.flops > 0) {
      const double width = static_cast<double>(job.shape[0] * job.shape[2]) * (job.op == "attention_forward" ? 2.0 : 5.0);
      const auto length = std::clamp<int64_t>(static_cast<int64_t>(entry.work.flops / width / entry.rows), 1, std::min<int64_t>(kSequence, 4 * most_rows));
      rate.amount = width * static_cast<double>(length) * static_cast<double>(length);
      all.push_back({[this, &operands, j, length] { run_attention(*context_, operands, j, length); }, &rate});
    } else if (streams().count(job.op)) {
      const int64_t cols = job.shape[0] > 0 ? job.shape[0] : 1024;
      const int64_t rows = std::clamp<int64_t>(job.shape[0] > 0 ? mean_rows : 2048, 1, std::clamp<int64_t>((1 << 21) / cols, 1, Operands::kMostRows));
      const auto call = [this, &operands, j, rows] { streams().at(j.op)(*context_, operands, j, rows); };
      context_->reset_work();
      call();
      rate.amount = context_->work().bytes;
      all.push_back({call, &rate});
    } else {
      rates_.erase(job);
    }
  }
  std::unique_ptr<Sweep> sweep;
  if (const nn::Parameter* p = typical(model)) {
    if (Rate& rate = updates_[update_key(options, *p)]; rate.seconds == 0) {
      sweep = std::make_unique<Sweep>(options, *p, operands_bytes_);
      rate.amount = sweep->elements();
      all.push_back({[this, &sweep] { (*sweep)(*context_); }, &rate});
      if (options.optimizer.refresh_interval() > 0) {
        Rate& refresh = refreshes_[update_key(options, *p)];
        refresh.amount = rate.amount;
        all.push_back({[this, &sweep] { sweep->refresh(*context_); }, &refresh});
      }
    }
  }
  run(all, start + budget_);
  budget_ -= seconds_now() - start;
}

// As many rows as one round over all products can have in `seconds`.
int64_t Calibration::rows_within(const Ledger& ledger, double seconds, double flops) const {
  int64_t rows = 4096;
  const auto round = [&] {
    double sum = 0;
    for (const auto& [job, entry] : ledger.entries())
      if (is_product(job) && !rates_.count(job)) {
        const Shape s = cut(job, std::min<int64_t>(rows, static_cast<int64_t>(entry.rows / std::max(1.0, entry.calls))), operands_bytes_);
        sum += 2.0 * static_cast<double>(s.rows * s.x) * static_cast<double>(s.y);
      }
    return sum / flops;
  };
  while (rows > 32 && round() > seconds) rows /= 2;
  return rows;
}

// The first round, in which shapes are compiled and pages touched, does not count.
void Calibration::run(std::vector<Measurement>& all, double until) {
  for (Measurement& m : all) m.call();
  constexpr size_t kMostRounds = 15;
  for (size_t round = 0; round < kMostRounds; ++round)
    for (Measurement& m : all)
      if (round == 0 || seconds_now() < until) m.times.push_back(timed(backend_.device(), m.call));
  for (Measurement& m : all) m.into->seconds = median(m.times);
}

double Calibration::seconds(const Job& job, const Ledger::Entry& entry) const {
  const double amount = amount_of(job, entry);
  if (amount <= 0) return 0;
  if (const auto it = rates_.find(job); it != rates_.end() && it->second.seconds > 0) return amount * it->second.seconds / it->second.amount;
  double spent = 0, done = 0;  // on the same op in other shapes, in the same precision
  for (const auto& [other, rate] : rates_)
    if (other.op == job.op && other.dtypes[0] == job.dtypes[0]) spent += rate.seconds, done += rate.amount;
  if (spent > 0) return amount * spent / done;
  if (is_attention(job)) {
    for (const auto& [other, rate] : rates_)
      if (other.op == job.op) spent += rate.seconds, done += rate.amount;
    if (spent > 0) return amount * spent / done;
  }
  if (is_product(job) || is_attention(job)) {
    const auto pace = matrix_flops_.find(job.dtypes[0]);
    if (pace != matrix_flops_.end()) return amount / (0.8 * pace->second);
    return matrix_flops_.empty() ? 0 : amount / (0.8 * matrix_flops_.begin()->second);
  }
  return axpy_bytes_ > 0 ? amount / axpy_bytes_ : 0;
}

double Calibration::seconds(const Ledger& ledger) const {
  double sum = 0;
  for (const auto& [job, entry] : ledger.entries()) sum += seconds(job, entry);
  return sum;
}

double Calibration::of_all(const std::map<std::string, Rate>& rates, const train::EngineOptions& options, const models::Decoder& model) {
  const nn::Parameter* p = typical(model);
  if (!p) return 0;
  const auto it = rates.find(update_key(options, *p));
  if (it == rates.end()) return 0;
  return it->second.seconds / it->second.amount * static_cast<double>(model.parameters().trainable_count());
}

double Calibration::update_seconds(const train::EngineOptions& options, const models::Decoder& model) const {
  return of_all(updates_, options, model);
}

double Calibration::refresh_seconds(const train::EngineOptions& options, const models::Decoder& model) const {
  return std::max(0.0, of_all(refreshes_, options, model) - of_all(updates_, options, model));
}

}  // namespace attune::plan
