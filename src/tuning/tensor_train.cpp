#include "tuning/tensor_train.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "formats/safetensors.h"
#include "models/adapter.h"
#include "ops/backend.h"
#include "ops/gemm.h"
#include "tensor/transfer.h"
#include "tuning/circuit.h"
#include "util/error.h"
#include "util/hash.h"
#include "util/rng.h"

namespace attune::tuning {
namespace {

constexpr std::string_view kDown = ".lora_A.weight", kUp = ".lora_B.weight";
constexpr int64_t kMostBond = 1 << 16;

bool is_core(const nn::Parameter& p) { return p.added && p.name.find(".tt_") != std::string::npos; }

// "base_model.model.model.layers.0.mlp.up_proj" of an A or B; empty for everything else.
std::string stem_of(const nn::Parameter& p) {
  const std::string& n = p.name;
  return p.added && (n.ends_with(kDown) || n.ends_with(kUp)) ? n.substr(0, n.size() - kDown.size()) : "";
}

// The largest divisor that is not above the root.
int64_t smaller_factor(int64_t n) {
  auto f = static_cast<int64_t>(std::sqrt(static_cast<double>(n)));
  while (n % f != 0) --f;
  return f;
}

// Sizes of an A [r, in], or of a B [out, r] turned. The larger part of one goes with the smaller of the other, so that both
// cores are of a size.
struct Sizes {
  Sizes(int64_t r, int64_t n) : k2(smaller_factor(r)), j1(smaller_factor(n)) { k1 = r / k2, j2 = n / j1; }
  int64_t k1 = 0, k2, j1, j2 = 0;
};

Sizes sizes_of(const nn::Parameter& p) {
  return p.name.ends_with(kUp) ? Sizes(p.shape[1], p.shape[0]) : Sizes(p.shape[0], p.shape[1]);
}

// On the host, wherever t lies.
Tensor in_fp32(ops::Context& context, Device& device, const Tensor& t) {
  if (t.dtype == DType::f32 && device.is_host()) return t;
  const Tensor out = context.arena().matrix(t.rows, t.cols, DType::f32);
  if (!context.dry()) get(device, t, 0, {out.as<float>(), static_cast<size_t>(t.count())});
  return out;
}
Tensor in_fp32(ops::Context& context, const nn::Parameter& p) { return in_fp32(context, *p.device, p.master.defined() ? p.master : p.weight); }

// Where a result for `t` is to be written on the host, and its way there.
Tensor draft_of(ops::Context& context, Device& device, const Tensor& t) {
  return t.dtype == DType::f32 && device.is_host() ? t : context.arena().matrix(t.rows, t.cols, DType::f32);
}
void hand_in(Device& device, const Tensor& draft, const Tensor& t) {
  if (draft.data != t.data) put(device, t, 0, {draft.as<float>(), static_cast<size_t>(t.count())});
}

double* amplitudes(ops::Context& context, const Circuit& circuit) {
  return static_cast<double*>(context.arena().allocate(static_cast<uint64_t>(circuit.states()) * sizeof(double)));
}

// w [1, r].
Tensor column_weights(ops::Context& context, const nn::Parameter& angles, int64_t rank) {
  const Tensor w = context.arena().vector(rank, DType::f32), theta = in_fp32(context, angles);
  ArenaScope workspace(context.arena());
  const Circuit circuit = Circuit::over(rank);
  double* psi = amplitudes(context, circuit);
  if (context.dry()) return w;
  circuit.run(theta.as<float>(), psi);
  for (int64_t k = 0; k < rank; ++k) w.as<float>()[k] = static_cast<float>(static_cast<double>(circuit.states()) * psi[k] * psi[k]);
  return w;
}

// dθ_i = Σ_k dw_k · ∂w_k/∂θ_i, ∂w_k/∂θ_i = 2·2ⁿ·ψ_k·∂ψ_k/∂θ_i.
void angle_gradients(ops::Context& context, const nn::Parameter& angles, const Tensor& dw, const Tensor& into) {
  ArenaScope workspace(context.arena());
  const Tensor theta = in_fp32(context, angles);
  const Circuit circuit = Circuit::over(dw.cols);
  double *psi = amplitudes(context, circuit), *tangent = amplitudes(context, circuit);
  if (context.dry()) return;
  circuit.run(theta.as<float>(), psi);
  for (int64_t i = 0; i < circuit.angles(); ++i) {
    circuit.run(theta.as<float>(), tangent, i);
    double sum = 0;
    for (int64_t k = 0; k < dw.cols; ++k) sum += static_cast<double>(dw.as<float>()[k]) * psi[k] * tangent[k];
    into.as<float>()[i] = static_cast<float>(2 * static_cast<double>(circuit.states()) * sum);
  }
}

// Room for what compose takes outside of a step; only what is used is touched.
Arena make_workspace() { return Arena(Place::host(), uint64_t{1} << 36); }

void compose_once(models::Decoder& model) {
  Arena workspace = make_workspace();
  ops::Context context(ops::cpu_backend(), workspace);
  TensorTrain(model).compose(context);
}

void fill_uniform(nn::Parameter& p, double bound, uint64_t seed) {
  const uint64_t key = mix_key(seed, hash64(p.name));
  std::vector<float> values(static_cast<size_t>(p.count()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(bound) * (2 * uniform_float(element_bits(key, i)) - 1);
  models::store(p, values);
}

// Both were rounded to what the adapter's file holds; anything beyond is another adapter.
bool follows(const std::vector<float>& composed, const std::vector<float>& stored) {
  float most = 0, apart = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    most = std::max(most, std::abs(stored[i]));
    apart = std::max(apart, std::abs(stored[i] - composed[i]));
  }
  return apart <= most / 64 + 1e-6f;
}

}  // namespace

void declare_cores(const TensorTrainOptions& options, models::Decoder& model) {
  if (model.embedding_adapter() || model.head().adapter())
    refuse("use_tensor_train is for modules of the layers; take embed_tokens and lm_head out of lora_target, or name them in additional_target");
  std::vector<nn::Parameter*> products;
  for (const auto& p : model.parameters().all())
    if (!stem_of(*p).empty()) products.push_back(p.get());
  const auto add = [&](const std::string& name, std::vector<int64_t> shape, float lr_scale) {
    nn::Parameter& core = model.parameters().add(name, std::move(shape));
    core.added = core.trainable = true;
    core.lr_scale = lr_scale;
  };
  for (nn::Parameter* p : products) {
    const bool up = p->name.ends_with(kUp);
    const Sizes s = sizes_of(*p);
    const int64_t bond = std::min({options.bond, s.k1 * s.j1, s.k2 * s.j2});
    const std::string stem = stem_of(*p);
    p->derived = true;
    add(stem + (up ? ".tt_B.0" : ".tt_A.0"), {s.k1 * s.j1, bond}, p->lr_scale);
    add(stem + (up ? ".tt_B.1" : ".tt_A.1"), {bond, s.k2 * s.j2}, p->lr_scale);
    if (up && options.weighted) add(stem + ".tt_angles", {Circuit::over(p->shape[1]).angles()}, p->lr_scale);
  }
}

void begin_cores(models::Decoder& model, uint64_t seed) {
  for (const auto& p : model.parameters().all()) {
    if (!is_core(*p)) continue;
    const std::string stem = p->name.substr(0, p->name.find(".tt_"));
    // Sums over the bond keep the variance; fresh memory is zero: what is not named here is.
    if (p->name.ends_with(".0")) fill_uniform(*p, std::sqrt(3.0 / static_cast<double>(p->shape[1])), seed);
    if (p->name.ends_with(".tt_A.1"))
      fill_uniform(*p, 1 / std::sqrt(static_cast<double>(model.parameters().find(stem + std::string(kDown))->shape[1])), seed);
    if (p->name.ends_with(".tt_angles")) {
      std::vector<float> even(static_cast<size_t>(p->count()));
      for (int64_t i = 0; i < p->count(); ++i)
        even[static_cast<size_t>(i)] = static_cast<float>(Circuit::even_angle(i, p->count() / Circuit::kLayers));
      models::store(*p, even);
    }
  }
  compose_once(model);
}

TensorTrainOptions read_tensor_train(const fs::path& directory) {
  const fs::path path = directory / kCoresFile;
  if (!fs::exists(path)) return {};
  const auto metadata = formats::SafetensorsFile(path).metadata();
  const auto text = [&](const char* key) { return metadata.contains(key) ? metadata.at(key) : std::string(); };
  TensorTrainOptions o;
  const std::string bond = text("tt_bond"), weighted = text("tt_weighted");
  const auto [end, error] = std::from_chars(bond.data(), bond.data() + bond.size(), o.bond);
  if (error != std::errc() || end != bond.data() + bond.size() || o.bond < 1 || o.bond > kMostBond || (weighted != "true" && weighted != "false"))
    fail("{}: its metadata has tt_bond \"{}\" and tt_weighted \"{}\"; expected a whole number from 1 to {} and true or false", path.string(), bond,
         weighted, kMostBond);
  o.weighted = weighted == "true";
  return o;
}

void save_cores(const fs::path& directory, const TensorTrainOptions& options, const models::Decoder& model) {
  std::vector<formats::TensorSource> sources;
  for (const auto& p : model.parameters().all())
    if (is_core(*p)) {
      sources.push_back({p->name, p->shape, p->stepped().data, p->stepped().dtype, DType::f32});
      sources.back().device = p->device;
    }
  formats::write_safetensors(directory / kCoresFile, std::move(sources),
                             {{"format", "pt"}, {"tt_bond", std::to_string(options.bond)}, {"tt_weighted", options.weighted ? "true" : "false"}});
}

void load_cores(const fs::path& directory, models::Decoder& model) {
  const auto& all = model.parameters().all();
  if (std::none_of(all.begin(), all.end(), [](const auto& p) { return is_core(*p); })) return;
  const fs::path path = directory / kCoresFile;
  if (!fs::exists(path)) fail("{}: is not there; without it the adapter beside it cannot go on learning as a tensor train", path.string());
  const formats::SafetensorsFile file(path);
  std::set<std::string> unused;
  for (const auto& t : file.tensors()) unused.insert(t.name);
  std::map<const nn::Parameter*, std::vector<float>> stored;
  for (const auto& p : all) {
    if (p->derived) stored[p.get()] = floats_of(*p->device, p->weight);
    if (!is_core(*p)) continue;
    const auto* info = file.find(p->name);
    if (!info || info->shape != p->shape)
      fail("{}: \"{}\" is {}; expected [{}]. The file belongs to another adapter", path.string(), p->name,
           info ? fmt::format("[{}]", fmt::join(info->shape, ", ")) : "missing", fmt::join(p->shape, ", "));
    std::vector<float> values(static_cast<size_t>(info->count()));
    file.read(*info, DType::f32, values.data());
    models::store(*p, values);
    unused.erase(p->name);
  }
  if (!unused.empty()) fail("{}: \"{}\" has no place in this model; the file belongs to another adapter", path.string(), *unused.begin());
  compose_once(model);
  for (const auto& [p, values] : stored)
    if (!follows(floats_of(*p->device, p->weight), values))
      refuse("{}: {} of adapter_model.safetensors does not follow from these cores: one of the two files was changed or replaced. Delete {} to "
             "continue the adapter as plain LoRA", path.string(), p->name, kCoresFile);
}

TensorTrain::TensorTrain(models::Decoder& model) {
  nn::ParameterStore& store = model.parameters();
  for (const auto& p : store.all()) {
    if (!p->derived) continue;
    const std::string stem = stem_of(*p);
    Train t;
    t.product = p.get();
    t.transposed = p->name.ends_with(kUp);
    for (const char* part : {".0", ".1"}) t.cores.push_back(store.find(stem + (t.transposed ? ".tt_B" : ".tt_A") + part));
    if (nn::Parameter* angles = t.transposed ? store.find(stem + ".tt_angles") : nullptr) t.cores.push_back(angles);
    const Sizes s = sizes_of(*p);
    t.k1 = s.k1, t.k2 = s.k2, t.j1 = s.j1, t.j2 = s.j2;
    t.bond = t.cores[0]->shape[1];
    by_product_[p.get()] = trains_.size();
    trains_.push_back(std::move(t));
  }
}

const std::vector<nn::Parameter*>& TensorTrain::cores_of(const nn::Parameter& derived) const {
  return trains_[by_product_.at(&derived)].cores;
}

std::vector<nn::Parameter*> TensorTrain::cores() const {
  std::vector<nn::Parameter*> all;
  for (const Train& t : trains_) all.insert(all.end(), t.cores.begin(), t.cores.end());
  return all;
}

// M = G1·G2 [k1·j1, k2·j2] in fp32, on the arena.
Tensor TensorTrain::product(ops::Context& context, const Train& t) {
  const Tensor m = context.arena().matrix(Rows::exactly(t.k1 * t.j1), t.k2 * t.j2, DType::f32);
  ArenaScope workspace(context.arena());
  ops::gemm(context, {in_fp32(context, *t.cores[0]), in_fp32(context, *t.cores[1]), m, false, false, false});
  return m;
}

namespace {

// f(at in A or B, at in M, k) for every element, each k1 by one thread and in order.
template <class Train, class F>
void for_each_element(const Train& t, F&& f) {
  const int64_t rank = t.k1 * t.k2, n = t.j1 * t.j2;
#pragma omp parallel for collapse(2) schedule(static)
  for (int64_t k1 = 0; k1 < t.k1; ++k1)
    for (int64_t k2 = 0; k2 < t.k2; ++k2) {
      const int64_t k = k1 * t.k2 + k2;
      for (int64_t j = 0; j < n; ++j) {
        const int64_t row = k1 * t.j1 + j / t.j2, col = k2 * t.j2 + j % t.j2;
        f(t.transposed ? j * rank + k : k * n + j, row * (t.k2 * t.j2) + col, k);
      }
    }
}

}  // namespace

ops::Context* TensorTrain::on_host(ops::Context& context) const {
  if (context.device().is_host()) return &context;
  if (context.dry()) return nullptr;
  if (!beside_) beside_ = std::make_unique<Beside>();
  return &beside_->context;
}

void TensorTrain::compose(ops::Context& where) const {
  ops::Context* host = on_host(where);
  if (!host) return;
  ops::Context& context = *host;
  for (const Train& t : trains_) {
    ArenaScope workspace(context.arena());
    const Tensor m = product(context, t);
    const Tensor w = t.cores.size() > 2 ? column_weights(context, *t.cores[2], t.rank()) : Tensor{};
    Device& device = *t.product->device;
    const Tensor& weight = t.product->weight;
    const Tensor out = draft_of(context, device, weight);
    if (context.dry()) continue;
    const float *from = m.as<float>(), *by = w.as<float>();
    float* to = out.as<float>();
    for_each_element(t, [&](int64_t at, int64_t in_m, int64_t k) { to[at] = from[in_m] * (by ? by[k] : 1.0f); });
    hand_in(device, out, weight);
  }
}

void TensorTrain::backward(ops::Context& where, const nn::Parameter& derived) const {
  ops::Context* host = on_host(where);
  if (!host) return;
  ops::Context& context = *host;
  Device& device = *derived.device;
  const Train& t = trains_[by_product_.at(&derived)];
  ArenaScope workspace(context.arena());
  const Tensor gradient = in_fp32(context, device, derived.gradient);
  const bool weighted = t.cores.size() > 2;
  const Tensor m = weighted ? product(context, t) : Tensor{};
  const Tensor w = weighted ? column_weights(context, *t.cores[2], t.rank()) : Tensor{};
  const Tensor dw = weighted ? context.arena().vector(t.rank(), DType::f32) : Tensor{};
  const Tensor dm = context.arena().matrix(Rows::exactly(t.k1 * t.j1), t.k2 * t.j2, DType::f32);
  if (!context.dry()) {
    const float *from = gradient.as<float>(), *by = w.as<float>(), *values = m.as<float>();
    float *to = dm.as<float>(), *sums = dw.as<float>();
    if (sums) std::fill_n(sums, t.rank(), 0.0f);
    for_each_element(t, [&](int64_t at, int64_t in_m, int64_t k) {
      to[in_m] = from[at] * (by ? by[k] : 1.0f);
      if (sums) sums[k] += from[at] * values[in_m];
    });
  }
  const Tensor first = in_fp32(context, *t.cores[0]), second = in_fp32(context, *t.cores[1]);
  std::array<Tensor, 3> drafts;
  for (size_t i = 0; i < t.cores.size(); ++i) drafts[i] = draft_of(context, device, t.cores[i]->gradient);
  ops::gemm(context, {dm, second, drafts[0], false, true, false});
  ops::gemm(context, {first, dm, drafts[1], true, false, false});
  if (weighted) angle_gradients(context, *t.cores[2], dw, drafts[2]);
  for (size_t i = 0; !context.dry() && i < t.cores.size(); ++i) hand_in(device, drafts[i], t.cores[i]->gradient);
}

}  // namespace attune::tuning
