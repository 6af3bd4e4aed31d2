#include "train/objective_options.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "objectives/causal_lm.h"
#include "objectives/kto.h"
#include "objectives/preference.h"
#include "objectives/reward.h"
#include "util/error.h"

namespace attune::train {
namespace {

std::vector<objectives::Preference::Term> terms_of(const Config& c) {
  std::vector<objectives::Preference::Term> terms;
  std::vector<std::string> names;
  for (const auto& l : objectives::preference_losses()) names.push_back(l.name);
  for (size_t i = 0; i < c.pref_loss.size(); ++i) {
    const auto* loss = objectives::find_preference_loss(c.pref_loss[i]);
    if (!loss) refuse("pref_loss: there is no \"{}\"; known are {}", c.pref_loss[i], fmt::join(names, ", "));
    terms.push_back({loss, c.pref_loss_weights.empty() ? 1.0 : c.pref_loss_weights[i]});
  }
  if (c.pref_ftx > 0) terms.push_back({objectives::find_preference_loss("sft"), c.pref_ftx});
  return terms;
}

}  // namespace

void check_objective(const Config& c) {
  if (c.stage == "kto" && c.kto_chosen_weight == 0 && c.kto_rejected_weight == 0)
    refuse("kto_chosen_weight and kto_rejected_weight are both 0: nothing would be learnt");
  if (c.stage != "dpo") return;
  if (c.pref_loss.empty()) refuse("pref_loss is empty: name a loss, e.g. sigmoid");
  if (!c.pref_loss_weights.empty() && c.pref_loss_weights.size() != c.pref_loss.size())
    refuse("pref_loss_weights: {} numbers for {} losses in pref_loss; give one each", c.pref_loss_weights.size(), c.pref_loss.size());
  const std::vector<objectives::Preference::Term> terms = terms_of(c);
  if (std::all_of(terms.begin(), terms.end(), [](const auto& t) { return t.weight == 0; })) refuse("pref_loss_weights: all of them are 0: nothing would be learnt");
  for (const std::string& name : c.pref_loss) {
    if (name == "exo_pair" && c.dpo_label_smoothing == 0)
      refuse("pref_loss: exo_pair takes the logarithm of dpo_label_smoothing, which must be above 0; 1e-3 is usual");
    if (name == "robust" && c.dpo_label_smoothing >= 0.5) refuse("dpo_label_smoothing: robust divides by 1 - 2·smoothing; choose less than 0.5");
  }
  if (c.pref_loss == std::vector<std::string>{"sft"} && c.pref_ftx == 0)
    refuse("pref_loss: sft alone learns the chosen answers and nothing from the rejected ones; that is stage: sft. Mix it with another loss");
}

bool needs_reference(const Config& c) {
  if (c.stage == "kto") return true;
  if (c.stage != "dpo") return false;
  return objectives::Preference(terms_of(c), {}).needs_reference();
}

std::unique_ptr<objectives::Objective> make_objective(const Config& c) {
  if (c.stage == "rm") return std::make_unique<objectives::Reward>(c.center_rewards_coefficient);
  if (c.stage == "kto") {
    using Loss = objectives::KtoOptions::Loss;
    const Loss loss = c.kto_loss == "bco" ? Loss::bco : c.kto_loss == "apo_zero" ? Loss::apo_zero : Loss::kto;
    return std::make_unique<objectives::Kto>(objectives::KtoOptions{c.pref_beta, c.kto_chosen_weight, c.kto_rejected_weight, loss});
  }
  if (c.stage == "dpo")
    return std::make_unique<objectives::Preference>(
        terms_of(c), objectives::PreferenceOptions{c.pref_beta, c.dpo_label_smoothing, c.simpo_gamma, c.discopop_tau, c.cpo_alpha});
  return std::make_unique<objectives::CausalLm>(static_cast<float>(c.label_smoothing_factor), c.use_dft_loss);
}

}  // namespace attune::train
