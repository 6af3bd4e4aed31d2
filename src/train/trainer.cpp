#include "train/trainer.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "models/load.h"
#include "ops/backend.h"
#include "optim/schedule.h"
#include "train/best_model.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/objective_options.h"
#include "train/reference.h"
#include "train/result.h"
#include "train/run_log.h"
#include "train/run_totals.h"
#include "train/same_run.h"
#include "train/samples.h"
#include "util/error.h"
#include "util/log.h"
#include "util/machine.h"
#include "util/progress.h"

namespace attune::train {
namespace {

volatile std::sig_atomic_t interrupted = 0;

optim::ScheduleOptions schedule_options(const RunSetup& setup) {
  const Config& c = setup.config;
  return {c.lr_scheduler_type, c.learning_rate, c.warmup(setup.total_steps), setup.total_steps,
          {c.lr_scheduler_kwargs.begin(), c.lr_scheduler_kwargs.end()}, setup.epoch_ends};
}

// A second signal ends the process at once, as usual.
class SignalGuard {
 public:
  SignalGuard() {
    for (int s : {SIGINT, SIGTERM}) std::signal(s, [](int number) {
      interrupted = number;
      std::signal(number, SIG_DFL);
    });
  }
  ~SignalGuard() {
    for (int s : {SIGINT, SIGTERM}) std::signal(s, SIG_DFL);
  }
};

// Of answers that are compared, where the objective does.
std::string preference_text(const objectives::Measures& measures) {
  std::string text;
  for (const auto& m : measures.entries()) {
    if (!m.known()) continue;
    if (m.name == "rewards/accuracies") text += fmt::format("  accuracy {:.1f} %", 100 * m.mean());
    if (m.name == "rewards/margins") text += fmt::format("  margin {:.3f}", m.mean());
  }
  return text;
}

std::string figures_text(const Json& metrics) {
  std::string text;
  if (metrics.contains("eval_perplexity")) text += fmt::format("  perplexity {:.3f}", metrics["eval_perplexity"].get<double>());
  if (metrics.contains("eval_accuracy")) text += fmt::format("  token accuracy {:.1f} %", 100 * metrics["eval_accuracy"].get<double>());
  if (metrics.contains("eval_rewards/accuracies")) text += fmt::format("  accuracy {:.1f} %", 100 * metrics["eval_rewards/accuracies"].get<double>());
  if (metrics.contains("eval_rewards/margins")) text += fmt::format("  margin {:.3f}", metrics["eval_rewards/margins"].get<double>());
  return text;
}

class Trainer {
 public:
  Trainer(RunSetup& setup, uint64_t activation_bytes)
      : setup_(setup), config_(setup.config), output_(config_.output_dir),
        schedule_(schedule_options(setup)), best_(config_) {
    check_run(setup);
    claim_output();
    prepare_reference();
    load_model(activation_bytes);
    log_ = std::make_unique<RunLog>(output_, setup.total_steps, checkpoint_.has_value());
    if (config_.num_generation_samples > 0) samples_ = std::make_unique<GenerationSamples>(setup_, checkpoint_.has_value());
    if (checkpoint_) restore();
  }

  std::string run();

 private:
  void claim_output();
  void prepare_reference();
  void load_model(uint64_t activation_bytes);
  void restore();
  void restore_best(const Json& state);
  void log_if_due(const StepResult& result, double epoch, double lr);
  void evaluate(double epoch, bool candidate = true);
  void save_checkpoint(double epoch);
  void take_best();
  RunSetup::Place place();              // of the next update
  double epoch_at(int64_t step) const;  // after update `step` (from 0)
  bool epoch_ends_at(int64_t step) const;
  bool eval_due() const;
  bool save_due() const;
  bool periodic(int64_t step) const;
  TrainerState state_at(double epoch) const;
  std::string finish(double epoch);

  RunSetup& setup_;
  const Config& config_;
  fs::path output_;
  std::unique_ptr<DirectoryLock> lock_;
  optim::Schedule schedule_;
  BestModel best_;
  std::optional<fs::path> checkpoint_;
  std::unique_ptr<models::Decoder> model_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<ReferenceLogps> references_;
  bool reference_missing_ = false;
  std::unique_ptr<RunLog> log_;
  std::unique_ptr<GenerationSamples> samples_;

  RunTotals totals_;
  // Of this process alone.
  int64_t window_tokens_ = 0, process_tokens_ = 0;
  double window_start_ = 0, start_ = 0, input_seconds_ = 0;
  Json last_eval_ = Json::object();
  double base_metric_ = NAN;  // of the base model, with eval_on_start
  int64_t superseded_ = 0;    // the best update until another became it
  MemoryWatch memory_watch_;
  uint64_t frozen_hash_ = 0;  // of the base below an adapter
};

void Trainer::claim_output() {
  std::error_code error;
  fs::create_directories(output_, error);
  if (error) fail("output_dir: {} cannot be created: {}. Choose another directory", output_.string(), error.message());
  lock_ = std::make_unique<DirectoryLock>(output_, "output_dir");
  if (config_.resume_from_checkpoint == "true" || config_.resume_from_checkpoint == "True") {
    checkpoint_ = newest_checkpoint(output_);
    if (!checkpoint_) notice("no checkpoint to resume from in {} yet: starting from the beginning", output_.string());
  } else if (!config_.resume_from_checkpoint.empty()) {
    const fs::path given = config_.resume_from_checkpoint;
    if (!fs::is_directory(given)) refuse("resume_from_checkpoint: {} is not a directory (true takes the newest in output_dir)", given.string());
    if (const std::string problem = verify_checkpoint(given); !problem.empty())
      fail("resume_from_checkpoint: {} is not intact: {}", given.string(), problem);
    checkpoint_ = given;
  } else {
    protect_finished_run(config_);
    if (config_.overwrite_output_dir) clear_previous_run(output_);
  }
  prune_checkpoints(output_, 0, 0);
}

// A separate reference comes and goes before the model that is trained takes its memory.
void Trainer::prepare_reference() {
  if (!needs_reference(config_)) return;
  references_ = std::make_unique<ReferenceLogps>(setup_);
  if (checkpoint_ && references_->changed())
    refuse("{}: the reference is another model than when this run began: {} on disk, or the setting that names it, has changed since. Restore it, or start afresh",
           output_.string(), config_.ref_model.empty() ? "the base or an adapter that it begins with" : "ref_model");
  if (!config_.ref_model.empty() && references_->missing()) references_->fill_with(config_.ref_model);
  reference_missing_ = references_->missing();
  if (reference_missing_ && checkpoint_ && setup_.engine.tuning.adapts())
    fail("{}: reference_logps.safetensors, which an adapter's run needs to continue, is not there any more, is damaged, or belongs to another reference or other "
         "data. Start afresh, or bring the file back with the base and the data that it was made of", output_.string());
}

void Trainer::load_model(uint64_t activation_bytes) {
  model_ = std::make_unique<models::Decoder>(setup_.architecture);
  allocate_model(*model_, setup_.engine, setup_.engine.backend->device());
  info("{}", tuning::describe(*model_));
  if (const Quantization& how = setup_.engine.tuning.quantization; how.on())
    info("base: the layers' weights are held as {}, {:.3g} bits each; the rest in {}", text_of(how), how.bits(), name_of(setup_.engine.compute));
  if (checkpoint_) check_same_run(*checkpoint_, read_checkpoint_state(*checkpoint_), setup_, *model_);
  // A run that is held near its base or adapts it needs the base's weights, also when it resumes.
  const tuning::TunerOptions& tuning = setup_.engine.tuning;
  if (!checkpoint_ || config_.l2_to_base > 0 || tuning.adapts() || reference_missing_) {
    models::load_weights(*model_, *setup_.directory);
    begin_rows(setup_.vocabulary, config_, *model_);
  }
  if (tuning.adapts()) tuning::begin_lora(tuning.lora, *model_, *setup_.directory, checkpoint_.value_or(fs::path()), config_.l2_to_base > 0);
  if (tuning.adapts()) frozen_hash_ = tuning::frozen_hash(*model_);
  engine_ = std::make_unique<Engine>(*model_, *setup_.objective, setup_.engine, setup_.engine.backend->device(), activation_bytes);
  if (reference_missing_) references_->fill(*engine_);
}

void Trainer::restore() {
  const Json state = read_checkpoint_state(*checkpoint_);
  totals_.restore(state);
  engine_->resume_at(totals_.updates);
  load_checkpoint(*checkpoint_, *model_, engine_->optimizer());
  if (totals_.updates > setup_.total_steps)
    refuse("{}: stands at update {}, behind the end of this run ({})", checkpoint_->string(), totals_.updates, setup_.total_steps);
  if (state.contains("window_measures") && state["window_measures"].size() == engine_->measures().entries().size())
    for (size_t i = 0; i < engine_->measures().entries().size(); ++i) {
      engine_->measures().entries()[i].sum = state["window_measures"][i][0].get<double>();
      engine_->measures().entries()[i].weight = state["window_measures"][i][1].get<double>();
    }
  if (state.contains("best")) restore_best(state["best"]);
  if (state.contains("last_eval")) last_eval_ = state["last_eval"];
  if (state.contains("loss_scale"))
    engine_->scaler() = {state["loss_scale"].at("scale").get<double>(), state["loss_scale"].at("good_steps").get<int64_t>(),
                         state["loss_scale"].at("skipped").get<int64_t>()};
  engine_->set_completed_squares(state.value("completed_squares", std::vector<double>{}));
  // A kill between a checkpoint and its clean-up leaves one too many.
  prune_checkpoints(output_, config_.save_total_limit, best_.step());
  if (setup_.stream) setup_.stream->restore(state.at("stream"), totals_.updates, setup_);
  log_->restore(read_json(*checkpoint_ / "trainer_state.json").at("log_history"), totals_.updates);
  if (samples_) samples_->restore(totals_.updates);
  info("resuming from {} at update {} of {}", checkpoint_->string(), totals_.updates, setup_.total_steps);
}

// The best model so far is worth remembering only where it can still become the result.
void Trainer::restore_best(const Json& state) {
  const int64_t step = state.value("step", int64_t{0});
  if (config_.load_best_model_at_end && step > 0) {
    const fs::path kept = output_ / fmt::format("checkpoint-{}", step);
    if (const std::string problem = verify_checkpoint(kept); !problem.empty()) {
      warn("load_best_model_at_end: the model of update {}, the best so far, is not there any more ({}: {}); the comparison begins anew",
           step, kept.string(), problem);
      return;
    }
  }
  best_.restore(state);
}

RunSetup::Place Trainer::place() {
  if (!setup_.stream) return setup_.place_of(totals_.updates);
  try {
    const StreamFeed::Place place = setup_.stream->place_of(totals_.updates, setup_);
    return {place.window, place.index, place.steps};
  } catch (const Error& e) {
    // What was learnt from the data before it is not lost.
    if (totals_.updates == 0 || save_due()) throw;
    save_checkpoint(epoch_at(totals_.updates - 1));
    throw Error(e.blame(), fmt::format("{} (checkpoint-{} holds what was learnt before it)", e.what(), totals_.updates));
  }
}

double Trainer::epoch_at(int64_t step) const {
  if (setup_.stream) return setup_.stream->epoch_at(step);
  const auto place = setup_.place_of(step);
  return static_cast<double>(place.epoch) + static_cast<double>(place.index + 1) / static_cast<double>(place.steps_in_epoch);
}

bool Trainer::epoch_ends_at(int64_t step) const {
  return std::find(setup_.epoch_ends.begin(), setup_.epoch_ends.end(), step) != setup_.epoch_ends.end();
}

bool Trainer::eval_due() const {
  if (!setup_.eval_batches) return false;
  const std::string& when = config_.eval_strategy;
  if (when == "no") return false;
  const bool by_steps = when == "steps" || (when == "auto" && config_.eval_steps > 0);
  if (totals_.updates == setup_.total_steps) return true;
  return by_steps ? totals_.updates % (config_.eval_steps > 0 ? config_.eval_steps : config_.logging_steps) == 0 : epoch_ends_at(totals_.updates);
}

// Whether save_strategy asks for a checkpoint of this update, best or not.
bool Trainer::periodic(int64_t step) const {
  if (config_.save_strategy == "steps") return step % config_.save_steps == 0;
  return config_.save_strategy == "epoch" && epoch_ends_at(step);
}

bool Trainer::save_due() const {
  const bool best = (config_.load_best_model_at_end || config_.save_strategy == "best") && best_.step() == totals_.updates;
  return best || periodic(totals_.updates);
}

void Trainer::log_if_due(const StepResult& result, double epoch, double lr) {
  const bool due = totals_.updates % config_.logging_steps == 0 || totals_.updates == setup_.total_steps || (totals_.updates == 1 && config_.logging_first_step);
  if (!due) return;
  const double now = seconds_now(), elapsed = now - start_;
  RunLog::TrainEntry e;
  e.step = totals_.updates;
  e.epoch = epoch;
  e.loss = totals_.window_mean_loss();
  e.grad_norm = result.grad_norm;
  e.learning_rate = lr;
  e.token_accuracy = totals_.window_accuracy();
  e.measures = &engine_->measures();
  e.tokens_per_second = static_cast<double>(window_tokens_) / std::max(1e-9, now - window_start_);
  e.elapsed = elapsed;
  const double rate = static_cast<double>(process_tokens_) / std::max(1e-9, elapsed);
  e.remaining = rate > 0 ? static_cast<double>(setup_.total_steps - totals_.updates) * (static_cast<double>(totals_.tokens) / static_cast<double>(totals_.updates)) / rate : 0;
  e.total_tokens = totals_.tokens;
  log_->train(e);
  info("step {}/{}  epoch {:.2f}  loss {:.4f}{}  grad norm {:.3f}  lr {:.3g}  {:.0f} tokens/s  {} left", totals_.updates, setup_.total_steps, epoch,
       e.loss, preference_text(engine_->measures()), e.grad_norm, e.learning_rate, e.tokens_per_second, format_seconds(e.remaining));
  if (const std::string trouble = memory_watch_.look(); !trouble.empty())
    warn("step {}: {}. `attune plan --all` shows settings that take less", totals_.updates, trouble);
  totals_.begin_window();
  window_tokens_ = 0;
  engine_->measures().clear();
  window_start_ = now;
}

// `candidate`: whether it counts for the best model.
void Trainer::evaluate(double epoch, bool candidate) {
  const double begin = seconds_now();
  last_eval_ = evaluate_set(*engine_, *setup_.eval_batches, *setup_.eval_set);
  const double elapsed = seconds_now() - start_;
  log_->evaluation(totals_.updates, epoch, last_eval_, elapsed, 0, totals_.tokens);
  const int64_t best_before = best_.step();
  const bool best = candidate && best_.update(last_eval_, totals_.updates);
  if (best) superseded_ = best_before;
  info("step {}  validation loss {:.4f}{}{}", totals_.updates, last_eval_["eval_loss"].get<double>(), figures_text(last_eval_), best ? "  (best so far)" : "");
  if (samples_) samples_->write(*model_, totals_.updates);
  window_start_ += seconds_now() - begin;
}

TrainerState Trainer::state_at(double epoch) const {
  TrainerState s;
  s.global_step = totals_.updates;
  s.max_steps = setup_.total_steps;
  s.logging_steps = config_.logging_steps;
  s.eval_steps = config_.eval_steps;
  s.save_steps = config_.save_steps;
  s.train_batch_size = config_.per_device_train_batch_size;
  s.num_input_tokens_seen = totals_.tokens;
  s.epoch = epoch;
  s.num_train_epochs = config_.max_steps > 0 ? static_cast<double>(setup_.epoch_ends.size()) : config_.num_train_epochs;
  s.total_flos = totals_.flops;
  s.best_step = best_.step();
  s.best_metric = best_.metric();
  const fs::path best = output_ / fmt::format("checkpoint-{}", best_.step());
  if (best_.step() == totals_.updates || fs::is_directory(best)) s.best_checkpoint = best.string();
  return s;
}

void Trainer::save_checkpoint(double epoch) {
  const double begin = seconds_now();
  CheckpointContent c;
  c.model = model_.get();
  c.optimizer = config_.save_only_model ? nullptr : &engine_->optimizer();
  c.save_dtype = setup_.save_dtype;
  c.save_model = [this](const fs::path& directory) { save_tuned(directory, setup_, *model_); };
  c.trainer_state = trainer_state_json(state_at(epoch), log_->history());
  const LossScaler& scaler = engine_->scaler();
  const Json loss_scale = {{"scale", scaler.scale}, {"good_steps", scaler.good_steps}, {"skipped", scaler.skipped}};
  Json measures = Json::array();
  for (const auto& m : engine_->measures().entries()) measures.push_back({m.sum, m.weight});
  Json state = totals_.state();
  state.update({{"format", 1}, {"attune_version", ATTUNE_VERSION}, {"total_steps", setup_.total_steps}, {"window_measures", measures},
                {"best", best_.state()}, {"last_eval", last_eval_}, {"loss_scale", loss_scale}, {"completed_squares", engine_->completed_squares()},
                {"threads", omp_get_max_threads()}, {"order", order_settings(setup_, *model_)},
                {"stream", setup_.stream ? setup_.stream->state(totals_.updates, setup_) : Json()}});
  c.state = state.dump(2) + "\n";
  write_checkpoint(output_, totals_.updates, c);
  if (superseded_ > 0 && !periodic(superseded_)) remove_checkpoint(output_, superseded_);
  superseded_ = 0;
  prune_checkpoints(output_, config_.save_total_limit, best_.step());
  window_start_ += seconds_now() - begin;
}

std::string Trainer::run() {
  SignalGuard guard;
  write_file_atomic(output_ / "attune_config.yaml", config_.resolved_yaml());
  // Of a stream it grows with the windows: one that goes on has it already.
  if (!setup_.stream || setup_.stream->at_first_window()) {
    if (setup_.report.entries().empty()) fs::remove(output_ / "data_report.jsonl");
    else write_file_atomic(output_ / "data_report.jsonl", setup_.report.jsonl());
  }
  Progress progress(config_.stage, setup_.total_steps);
  Step step;
  start_ = window_start_ = seconds_now();
  double epoch = totals_.updates > 0 ? epoch_at(totals_.updates - 1) : 0;
  if (totals_.updates == 0 && config_.eval_on_start && setup_.eval_batches) {
    evaluate(0, false);
    base_metric_ = last_eval_.value(best_.name(), NAN);
  }
  while (totals_.updates < setup_.total_steps && !best_.exhausted()) {
    const double asked = seconds_now();
    const auto place = this->place();
    setup_.train_batches->make_step(place.epoch, place.index, step);
    input_seconds_ += seconds_now() - asked;
    const double lr = schedule_.learning_rate(totals_.updates);
    StepResult result;
    try {
      result = engine_->step(step, totals_.updates + 1, static_cast<float>(lr));
    } catch (const BadToken& bad) {
      fail("{} It stands at {}", bad.what(), setup_.train_set->where(bad.sample()));
    } catch (const SpoiledModel& spoiled) {
      const auto last = newest_checkpoint(output_);
      fail("{} {}", spoiled.what(), last ? fmt::format("The run goes back to {}: resume_from_checkpoint: true continues there. Lower the "
                                                       "learning rate first, or find the cause with optimizer_in_backward: false", last->string())
                                         : std::string("There is no checkpoint to go back to yet: start afresh with a lower learning rate, and "
                                                       "a smaller save_steps"));
    }
    int64_t tokens = 0;
    for (const MicroBatch& b : step.micro_batches) tokens += b.token_count();
    totals_.add(result, tokens, engine_->step_work().flops);
    window_tokens_ += tokens, process_tokens_ += tokens;
    epoch = epoch_at(totals_.updates - 1);
    progress.update(totals_.updates, fmt::format("loss {:.4f}  {:.0f} tokens/s", result.loss,
                                       static_cast<double>(process_tokens_) / std::max(1e-9, seconds_now() - start_)));
    log_if_due(result, epoch, lr);
    if (result.skipped)
      notice("step {}: fp16 gradients overflowed; nothing was updated, the loss scale is {} now ({} skipped so far)", totals_.updates,
             engine_->scaler().scale, engine_->scaler().skipped);
    if (eval_due()) evaluate(epoch);
    if (save_due()) save_checkpoint(epoch);
    if (interrupted) {
      if (!save_due()) save_checkpoint(epoch);
      fail("interrupted at update {} of {}; checkpoint-{} is written. {}", totals_.updates, setup_.total_steps, totals_.updates,
           config_.save_only_model ? "It holds the model alone (save_only_model) and cannot be resumed"
                                   : "Continue with resume_from_checkpoint=true");
    }
  }
  if (best_.exhausted())
    info("stopped early after update {} of {}: {} evaluations without a better {} than {:.6g} at update {}", totals_.updates, setup_.total_steps,
         config_.early_stopping_patience, best_.name(), best_.metric(), best_.step());
  return finish(epoch);
}

// The result is the best checkpoint's model.
void Trainer::take_best() {
  if (!config_.load_best_model_at_end || best_.step() == 0) return;
  last_eval_ = best_.metrics();
  if (best_.step() != totals_.updates) {
    const fs::path best = output_ / fmt::format("checkpoint-{}", best_.step());
    if (const std::string problem = verify_checkpoint(best); !problem.empty())
      fail("load_best_model_at_end: the best checkpoint {} is not intact: {}", best.string(), problem);
    load_tuned(best, *model_);
  }
  info("the result is the model of update {} ({} {:.6g})", best_.step(), best_.name(), best_.metric());
  if (std::isfinite(base_metric_) && (config_.larger_is_better() ? base_metric_ >= best_.metric() : base_metric_ <= best_.metric()))
    warn("the base model was no worse: {} {:.6g} before training. Lower the learning rate, or look at the data", best_.name(), base_metric_);
}

std::string Trainer::finish(double epoch) {
  const double seconds = seconds_now() - start_;
  take_best();
  if (setup_.engine.tuning.adapts() && tuning::frozen_hash(*model_) != frozen_hash_)
    fail("internal error: weights of the frozen base changed during the run; the adapter would not fit the base any more and is not written");
  if (config_.keep_model) save_result(setup_, *model_);
  Json results = {{"epoch", epoch},
                  {"num_input_tokens_seen", totals_.tokens},
                  {"total_flos", totals_.flops},
                  {"train_loss", totals_.mean_loss()},
                  {"steps", totals_.updates},
                  {"method", tuning::method_of(setup_.engine.tuning)},
                  {"trainable_parameters", tuning::count_parameters(*model_).trained},
                  {"parameters", tuning::count_parameters(*model_).all},
                  {"stopped_early", best_.exhausted()},
                  {"best_step", best_.step()},
                  {"best_share", static_cast<double>(best_.step()) / static_cast<double>(setup_.total_steps)},
                  {"train_runtime", seconds},
                  {"input_seconds", input_seconds_},
                  {"train_steps_per_second", static_cast<double>(totals_.updates) / std::max(1e-9, seconds)},
                  {"duration_seconds", seconds},
                  {"tokens_per_second", static_cast<double>(process_tokens_) / std::max(1e-9, seconds)},
                  {"peak_memory_bytes", peak_memory_bytes()}};
  // Its memory is taken once and kept: what it holds at the end is the most.
  if (Device& device = setup_.engine.backend->device(); !device.is_host()) results["peak_device_memory_bytes"] = device.held_memory();
  log_->finish(totals_.updates, epoch, {{"total_flos", totals_.flops}, {"train_loss", results["train_loss"]}, {"train_runtime", seconds}});
  write_file_atomic(output_ / "trainer_state.json", trainer_state_json(state_at(epoch), log_->history()));
  log_->write_curve();
  if (!last_eval_.empty()) write_file_atomic(output_ / "eval_results.json", Json(last_eval_).dump(2) + "\n");
  Json all = results;
  for (const auto& [key, value] : last_eval_.items()) all[key] = value;
  write_file_atomic(output_ / "all_results.json", all.dump(2) + "\n");
  if (config_.keep_model) write_manifest(setup_, totals_.updates);
  write_file_atomic(output_ / "train_results.json", results.dump(2) + "\n");
  info("done: {} updates in {}, {:.0f} tokens/s, peak memory {}", totals_.updates, format_seconds(seconds),
       results["tokens_per_second"].get<double>(), format_bytes(peak_memory_bytes()));
  return dump_json(all);
}

}  // namespace

void check_run(const RunSetup& setup) {
  const optim::Schedule known(schedule_options(setup));
  check_reference(setup);
  if (setup.eval_set) BestModel(setup.config).check(metric_names(*setup.eval_set, *setup.objective));
}

std::string run_training(RunSetup& setup, uint64_t activation_bytes) {
  interrupted = 0;
  return Trainer(setup, activation_bytes).run();
}

}  // namespace attune::train
