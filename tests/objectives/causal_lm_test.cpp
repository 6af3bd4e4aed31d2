#include "objectives/causal_lm.h"

#include "support/steps.h"

namespace attune {
namespace {

using namespace test;

std::map<std::string, std::vector<float>> gradients(const models::Decoder& model, double scale) {
  std::map<std::string, std::vector<float>> out;
  for (const auto& p : model.parameters().all())
    for (float g : floats(p->gradient)) out[p->name].push_back(static_cast<float>(scale * g));
  return out;
}

// The definition: p·nll with p held fixed is nll with weights w·p, where both are divided by the sum of w.
TEST(CausalLm, DynamicCountsATokenByTheProbabilityOfItsLabel) {
  auto model = load_model(fixture("models/qwen2_tiny"));
  const Step step = split(eight_samples(static_cast<int>(model->config().vocab_size)), {{0, 1, 2}, {3, 4, 5, 6, 7}});
  const objectives::CausalLm plain, dynamic(0, true);
  const train::EngineOptions options = options_for(step);
  auto engine = make_engine(*model, dynamic, options);
  const double loss = engine->step(step, 1, 0.0f).loss;
  const auto found = gradients(*model, 1);

  Step weighted = step;
  Arena arena(Place::host(), 64 << 20);
  ops::Context context(ops::cpu_backend(), arena);
  nn::StepHooks hooks;
  nn::Tape tape(context, hooks);
  weighted.total_weight = 0;
  double measured = 0, expected = 0;
  for (MicroBatch& b : weighted.micro_batches) {
    ArenaScope scope(arena);
    objectives::BatchView view;
    view.bind(b, options.capacity, step.total_weight);
    tape.begin(false);
    measured += dynamic.run(tape, *model, view, DType::f32, {});
    std::vector<float> weights = b.loss_weights;
    for (size_t i = 0; i < weights.size(); ++i) {
      const double logp = view.logp_on_host()[i];
      expected -= weights[i] * logp;
      weights[i] = static_cast<float>(weights[i] * std::exp(logp));
    }
    b.loss_weights = weights;
    weighted.total_weight += b.total_weight();
  }
  EXPECT_NEAR(measured, expected / step.total_weight, 1e-6) << "what is only measured is the plain loss";
  auto other = load_model(fixture("models/qwen2_tiny"));
  auto reference = make_engine(*other, plain, options);
  const double scale = weighted.total_weight / step.total_weight;
  EXPECT_NEAR(loss, scale * reference->step(weighted, 1, 0.0f).loss, 1e-6);
  for (const auto& [name, gradient] : gradients(*other, scale)) EXPECT_LT(relative_error(found.at(name), gradient), 2e-5) << name;
}

}  // namespace
}  // namespace attune
