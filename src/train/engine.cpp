#include "train/engine.h"

#include <algorithm>
#include <cmath>

#include "objectives/sequence_logps.h"
#include "ops/backend.h"
#include "ops/optimizer.h"
#include "util/error.h"
#include "util/rng.h"

namespace attune::train {
namespace {

// Address space for a dry arena: never mapped, so its size costs nothing.
constexpr uint64_t kDryBytes = uint64_t{1} << 42;

int64_t count_correct(const objectives::BatchView& view) {
  const auto correct = view.correct_on_host();
  return std::count_if(correct.begin(), correct.end(), [](float x) { return x != 0; });
}

}  // namespace

namespace {

void check(const EngineOptions& o) {
  if (o.rotation && o.optimizer.anchor_decay > 0)
    refuse("l2_to_base keeps a copy of everything that learns; with use_badam that would be the whole model. Leave one of them out");
  if (!o.optimizer_in_backward) {
    if (o.clipping == Clipping::previous_step && o.max_grad_norm > 0)
      refuse("clipping: previous_step belongs to optimizer_in_backward; without it the norm of this update is known: use global");
    return;
  }
  if (o.micro_batches > 1)
    refuse("optimizer_in_backward: a gradient is gone as soon as it is used, so it cannot be added up over {} micro-batches. Set "
           "gradient_accumulation_steps: 1 and raise per_device_train_batch_size instead; gradient_checkpointing: block makes room for it",
           o.micro_batches);
  if (o.loss_scaling)
    refuse("optimizer_in_backward: fp16 must look at all gradients for overflow before the first update. Use bf16 or pure_bf16");
  if (o.clipping == Clipping::global && o.max_grad_norm > 0)
    refuse("clipping: global needs all gradients at once, with optimizer_in_backward there never are. Use previous_step, per_tensor or off");
}

}  // namespace

void allocate_model(models::Decoder& model, const EngineOptions& options, Place place) {
  tuning::apply(options.tuning, model);
  if (options.rotation) tuning::BlockRotation(*options.rotation, model, place.is_dry());
  optim::apply_groups(options.lr_groups, model.parameters());
  model.parameters().allocate_weights(place, options.compute);
  if (options.masters) model.parameters().allocate_masters(place);
}

Engine::Engine(models::Decoder& model, const objectives::Objective& objective, const EngineOptions& options,
               Place place, uint64_t activation_bytes)
    : model_(model), objective_(objective), options_(options), measures_(objective.measure_names()) {
  check(options);
  if (options.rotation) rotation_.emplace(*options.rotation, model, place.is_dry());
  if (options.tuning.adapts() && options.tuning.lora.tensor_train.on()) tensor_train_.emplace(model);
  auto& parameters = model.parameters();
  for (const auto& p : parameters.all()) memory_.weights += p->weight_bytes();
  optimizer_ = optim::Optimizer::create(options.optimizer);
  choose_gradient_dtypes();
  for (const auto& p : parameters.all())
    if (p->master.defined()) memory_.masters += p->master.bytes();
  std::vector<nn::Parameter*> stored;
  for (const auto& p : parameters.all())
    // A tied table collects from both ends of the network: its gradient must outlive every block.
    if (!used_at_once(*p)) stored.push_back(p.get());
  memory_.gradients = parameters.allocate_gradients(place, stored);
  memory_.optimizer = optimizer_->allocate(place, parameters);
  if (options.optimizer.anchor_decay > 0) memory_.optimizer += parameters.allocate_anchors(place, options.anchor_dtype);
  if (options.loss_scaling) scaler_.scale = LossScaler::kFirst;
  memory_.tables = model.prepare(place, std::max(options.capacity.max_seqlen, options.eval_capacity.max_seqlen));
  arena_ = std::make_unique<Arena>(place, place.is_dry() ? kDryBytes : activation_bytes);
  if (!place.is_dry()) arena_->commit("activations");
  context_ = std::make_unique<ops::Context>(*options.backend, *arena_);
  if (!options.backend->device().is_host()) {
    const uint64_t bytes = std::max(objectives::BatchView::bytes(options.capacity), objectives::BatchView::bytes(options.eval_capacity));
    inputs_ = std::make_unique<Arena>(place, bytes);
    if (!place.is_dry()) view_.use(*inputs_);
    memory_.tables += bytes;
  }
  squared_norms_.resize(parameters.all().size());
  norm_memory_ = std::make_unique<Arena>(place, (squared_norms_.size() * sizeof(double) + 63) / 64 * 64);
  norms_ = static_cast<double*>(norm_memory_->allocate(squared_norms_.size() * sizeof(double)));
  tape_ = std::make_unique<nn::Tape>(*context_, *this);
}

bool Engine::tied(const nn::Parameter& p) const { return &p == &model_.embedding() && model_.config().tie_word_embeddings; }

// Whether the gradient is of no use any more as soon as it is complete, so that it needs no storage of its own.
bool Engine::used_at_once(const nn::Parameter& p) const {
  return (options_.optimizer_in_backward || (p.derived && options_.micro_batches == 1)) && !tied(p);
}

// One contribution is written and rounded once: the compute dtype will do. Several are summed: fp32.
void Engine::choose_gradient_dtypes() {
  const int64_t rows = options_.capacity.label_rows;
  const bool chunks = rows > 0 && model_.head().chunk_rows(rows) < rows;
  for (const auto& p : model_.parameters().all()) {
    const bool head = p.get() == &model_.head_weight();
    const bool in_chunks = chunks && (!objective_.knows_coefficients() || row_slabs(*p) == nn::RowSlabs::no);
    const auto& adapter = model_.head().adapter();
    const bool adapts_head = adapter && (p.get() == adapter->a || p.get() == adapter->b);
    const bool summed = options_.micro_batches > 1 || (adapts_head && chunks) || (head && (in_chunks || model_.config().tie_word_embeddings));
    p->gradient_dtype = summed ? DType::f32 : options_.compute;
  }
  if (tensor_train_)
    for (nn::Parameter* core : tensor_train_->cores()) core->gradient_dtype = DType::f32;  // small, and sums over whole matrices
}

double Engine::run_micro_batch(const objectives::BatchView& view, bool last) {
  ArenaScope scope(*arena_);
  models::ForwardOptions forward;
  forward.attention_dropout = options_.attention_dropout;
  forward.hidden_dropout = options_.hidden_dropout;
  forward.embedding_dropout = options_.embedding_dropout;
  if (options_.tuning.adapts()) forward.adapter_dropout = static_cast<float>(options_.tuning.lora.config.dropout);
  forward.neftune_noise_alpha = options_.neftune_noise_alpha;
  forward.dropout_key = mix_key(options_.seed, static_cast<uint64_t>(number_));
  tape_->begin(true, options_.recompute, last);
  return objective_.run(*tape_, model_, view, options_.compute, forward);
}

StepResult Engine::step(const Step& step, int64_t number, float learning_rate) {
  number_ = number;
  resume_at(number);
  updated_ = 0;
  learning_rate_ = learning_rate;
  std::swap(completed_, completed_before_);
  completed_.clear();
  model_.parameters().begin_step();
  begin_norms();
  context_->reset_work();
  const double normaliser = objectives::normaliser_of(objective_, step);
  if (!(normaliser > 0))
    fail("step {}: no token carries a label, so there is nothing to learn from. `attune data inspect` shows the loss mask", number);
  look_ahead(step, true);
  if (options_.clipping == Clipping::previous_step && options_.max_grad_norm > 0 && completed_before_.empty())
    measure(step.micro_batches[0], normaliser);
  StepResult result;
  size_t sequences = 0;
  for (size_t i = 0; i < step.micro_batches.size(); ++i) {
    view_.bind(step.micro_batches[i], options_.capacity, normaliser / scaler_.scale);
    view_.set_ahead(ahead_, sequences);
    view_.measures = &measures_;
    sequences += static_cast<size_t>(step.micro_batches[i].sequence_count());
    const double loss = run_micro_batch(view_, i + 1 == step.micro_batches.size());
    if (!std::isfinite(loss)) report_bad_loss(step.micro_batches[i], view_);
    result.loss += loss / scaler_.scale;
    if (objective_.normaliser() != objectives::Normaliser::labelled_weight) continue;
    result.labels += view_.targets().rows.count;
    result.correct += count_correct(view_);
  }
  view_.measures = nullptr;
  finish_gradients(result);
  if (tensor_train_ && !result.skipped) tensor_train_->compose(*context_);
  step_work_ = context_->work();
  return result;
}

// Leaves the norms of this update's own gradients in completed_before_: the estimate is exact then.
void Engine::measure(const MicroBatch& batch, double normaliser) {
  measuring_ = true;
  view_.bind(batch, options_.capacity, normaliser);
  view_.set_ahead(ahead_, 0);
  const double loss = run_micro_batch(view_, true);
  measuring_ = false;
  if (!std::isfinite(loss)) report_bad_loss(batch, view_);
  std::swap(completed_, completed_before_);
  completed_.clear();
  begin_norms();
  model_.parameters().begin_step();
  context_->reset_work();  // one run makes this once: it belongs to no update's work
}

void Engine::resume_at(int64_t number) {
  const int64_t block = rotation_ ? rotation_->block_at(number) : 0;
  if (!rotation_ || block == rotation_->active()) return;
  rotation_->move_to(block, [&](nn::Parameter& from, nn::Parameter& to) { optimizer_->hand_over(from, to); });
  completed_.clear();  // of another layer
}

int64_t Engine::updates() const { return rotation_ ? rotation_->turn_update(number_) : number_ - scaler_.skipped; }

// Clips and updates what has not been updated inside backward; notes the global gradient norm.
void Engine::finish_gradients(StepResult& result) {
  fetch_norms();
  double total = 0;
  for (double s : squared_norms_) total += s;
  result.grad_norm = std::sqrt(total) / scaler_.scale;
  if (!std::isfinite(result.grad_norm)) {
    if (!options_.loss_scaling) report_bad_gradient();
    scaler_.overflow();
    result.skipped = true;
    if (scaler_.scale < LossScaler::kLeast)
      fail("step {}: fp16 gradients overflow at every loss scale down to {}. Use bf16, or lower the learning rate; the last "
           "checkpoint is intact", number_, scaler_.scale);
    return;
  }
  if (options_.optimizer_in_backward) return;
  auto scale = static_cast<float>(1 / scaler_.scale);
  if (options_.clipping == Clipping::global && options_.max_grad_norm > 0 && result.grad_norm > 0)
    scale *= std::min(1.0f, options_.max_grad_norm / (static_cast<float>(result.grad_norm) + 1e-6f));
  update_all(scale);
  if (options_.loss_scaling) scaler_.good();
}

void Engine::update_all(float scale) {
  const auto& all = model_.parameters().all();
  for (size_t i = 0; i < all.size(); ++i) {
    nn::Parameter& p = *all[i];
    if (!p.is_stepped() || !(p.gradient_written || context_->dry())) continue;
    const float own = options_.clipping == Clipping::per_tensor ? tensor_scale(squared_norms_[i] * scale * scale) : 1.0f;
    optimizer_->step(*context_, p, updates(), learning_rate_, scale * own);
  }
}

size_t Engine::index_of(const nn::Parameter& parameter) const {
  const auto& all = model_.parameters().all();
  size_t index = 0;
  while (all[index].get() != &parameter) ++index;
  return index;
}

void Engine::begin_norms() {
  std::fill(squared_norms_.begin(), squared_norms_.end(), 0.0);
  if (!options_.optimizer_in_backward && !context_->dry()) context_->device().zero(norms_, squared_norms_.size() * sizeof(double));
}

void Engine::fetch_norms() {
  if (!options_.optimizer_in_backward && !context_->dry()) context_->device().download(squared_norms_.data(), norms_, squared_norms_.size() * sizeof(double));
}

// Adds to the books; returns the squared norm of this gradient.
double Engine::note_norm(const nn::Parameter& parameter, const Tensor& gradient) {
  const double squared = ops::squared_norm(*context_, gradient);
  squared_norms_[index_of(parameter)] += squared;
  if (!std::isfinite(squared)) report_bad_gradient();
  completed_.push_back(squared);
  return squared;
}

// By how much a gradient is scaled that is alone with its norm.
float Engine::tensor_scale(double squared_norm) const {
  const float limit = options_.max_grad_norm;
  return limit > 0 ? std::min(1.0f, limit / (static_cast<float>(std::sqrt(squared_norm)) + 1e-6f)) : 1.0f;
}

// The same inside backward, where the norm of all gradients is told from that of the update before.
float Engine::scale_inside(double squared_norm) const {
  const float own = tensor_scale(squared_norm), limit = options_.max_grad_norm;
  if (limit <= 0 || options_.clipping != Clipping::previous_step) return own;
  double before = 0, now = 0, all_before = 0;
  for (double s : completed_before_) all_before += s;
  for (size_t i = 0; i < std::min(completed_.size(), completed_before_.size()); ++i) now += completed_[i], before += completed_before_[i];
  if (!(before > 0)) return own;
  return std::min(own, limit / (static_cast<float>(std::sqrt(all_before * now / before)) + 1e-6f));
}

// What is not trained itself hands its gradient on to what it is computed from.
void Engine::derived_complete(nn::Parameter& parameter) {
  ArenaScope workspace(*arena_);
  for (nn::Parameter* core : tensor_train_->cores_of(parameter)) tape_->gradient_of(*core);
  tensor_train_->backward(*context_, parameter);
  for (nn::Parameter* core : tensor_train_->cores_of(parameter)) gradient_complete(*core);
  if (used_at_once(parameter)) parameter.gradient = {};
  parameter.gradient_written = false;
}

void Engine::gradient_complete(nn::Parameter& parameter) {
  if (parameter.derived) return derived_complete(parameter);
  // Nobody waits for the device here: all norms are looked at together, before the update.
  if (!options_.optimizer_in_backward) return ops::squared_norm(*context_, {parameter.gradient, norms_ + index_of(parameter)});
  const double squared = note_norm(parameter, parameter.gradient);
  if (!measuring_) {
    optimizer_->step(*context_, parameter, updates(), learning_rate_, scale_inside(squared));
    ++updated_;
  }
  if (!tied(parameter)) parameter.gradient = {};
  parameter.gradient_written = false;
}

nn::RowSlabs Engine::row_slabs(const nn::Parameter& parameter) {
  if (!options_.optimizer_in_backward || tied(parameter)) return nn::RowSlabs::no;
  // Clipping by the parameter's own norm needs all of its gradient first.
  const bool whole = options_.clipping == Clipping::per_tensor && options_.max_grad_norm > 0;
  return !whole && optimizer_->accepts_row_slabs(parameter) ? nn::RowSlabs::freed : nn::RowSlabs::kept;
}

void Engine::rows_complete(nn::Parameter& parameter, int64_t first_row, const Tensor& gradient) {
  const double squared = note_norm(parameter, gradient);
  if (measuring_) return;
  optimizer_->step_rows(*context_, parameter, first_row, gradient, updates(), learning_rate_, scale_inside(squared));
  ++updated_;
}

// Tells the objective what it wants to know of the step as a whole.
void Engine::look_ahead(const Step& step, bool training) {
  ahead_.clear();
  const objectives::LookAhead kind = objective_.look_ahead();
  if (kind == objectives::LookAhead::none || (kind == objectives::LookAhead::sequences && step.micro_batches.size() == 1)) return;
  for (const MicroBatch& b : kind == objectives::LookAhead::probes ? step.probes : step.micro_batches) {
    measure_sequences(b, training, seen_);
    ahead_.insert(ahead_.end(), seen_.begin(), seen_.end());
  }
}

void Engine::measure_sequences(const MicroBatch& batch, bool training, std::vector<objectives::SequenceLogp>& out) {
  view_.bind(batch, training ? options_.capacity : options_.eval_capacity, 1.0);
  objectives::measure_sequences(*tape_, model_, view_, options_.compute, out);
}

void Engine::evaluate(const Step& step, std::vector<objectives::Outcome>& outcomes, objectives::Measures* measures) {
  look_ahead(step, false);
  view_.outcomes = &outcomes;
  view_.measures = measures;
  size_t sequences = 0;
  for (const MicroBatch& batch : step.micro_batches) {
    ArenaScope scope(*arena_);
    view_.bind(batch, options_.eval_capacity, 1.0);
    view_.set_ahead(ahead_, sequences);
    sequences += static_cast<size_t>(batch.sequence_count());
    tape_->begin(false);
    objective_.run(*tape_, model_, view_, options_.compute, {});
  }
  view_.outcomes = nullptr;
  view_.measures = nullptr;
}

void Engine::dry_run() {
  dry_inputs_ = std::make_unique<Arena>(Place::dry(), kDryBytes);
  model_.parameters().begin_step();
  context_->reset_work();
  if (options_.capacity.tokens > 0) {
    view_.bind_dry(*dry_inputs_, options_.capacity);
    // The first writes gradients, all others add to them: two show what any number takes.
    const int64_t shown = std::min<int64_t>(2, options_.micro_batches);
    for (int64_t i = 0; i < shown; ++i) run_micro_batch(view_, i + 1 == shown);
    if (!options_.optimizer_in_backward) update_all(1.0f);
    if (tensor_train_) tensor_train_->compose(*context_);
    step_work_ = context_->work();
  }
  if (options_.eval_capacity.tokens > 0) {
    ArenaScope scope(*arena_);
    view_.bind_dry(*dry_inputs_, options_.eval_capacity);
    tape_->begin(false);
    objective_.run(*tape_, model_, view_, options_.compute, {});
  }
}

MemoryParts Engine::memory() const {
  MemoryParts parts = memory_;
  parts.activations = arena_->high_water();
  return parts;
}

void Engine::report_bad_loss(const MicroBatch& batch, const objectives::BatchView& view) const {
  const auto logp = view.logp_on_host();
  for (size_t i = 0; i < logp.size(); ++i) {
    if (std::isfinite(logp[i])) continue;
    const auto row = static_cast<size_t>(batch.label_rows[i]);
    throw BadToken(fmt::format("step {}: the loss is not finite: token {} (id {}) of a sample has log-probability {}. The "
                               "learning rate may be too high or the base model damaged; the last checkpoint is intact.",
                               number_, batch.positions[row] + 1, batch.labels[i], logp[i]),
                   batch.sample_ids[row]);
  }
  fail("step {}: the loss is not finite", number_);
}

void Engine::report_bad_gradient() const {
  const auto& all = model_.parameters().all();
  for (size_t i = 0; i < all.size(); ++i)
    if (!std::isfinite(squared_norms_[i])) {
      if (updated_ > 0)
        throw SpoiledModel(fmt::format("step {}: the gradient of {} is not finite, and {} parameters had been updated inside the backward "
                                       "pass before it came: the model in memory is of no use any more.", number_, all[i]->name, updated_));
      fail("step {}: the gradient of {} is not finite. Lower the learning rate or use fp32 to find the cause; the last "
           "checkpoint is intact", number_, all[i]->name);
    }
  fail("step {}: the gradient norm overflows", number_);
}

}  // namespace attune::train
