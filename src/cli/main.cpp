// The command line: options of every command, and what goes wrong turned into an exit code (1 the work failed, 2 the
// request was wrong).
#include <CLI/CLI.hpp>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>

#include "cli/commands.h"
#include "train/config.h"
#include "util/error.h"

using namespace attune::cli;

namespace {

using Action = std::function<int()>;

CLI::App* add_run(CLI::App& app, const char* name, const char* help, RunArgs& args, bool json) {
  CLI::App* command = app.add_subcommand(name, help);
  command->add_option("arguments", args.arguments, "[config.yaml] [key=value …]; the file may be left out or empty");
  if (json) command->add_flag("--json", args.json, "Print the result as JSON on stdout");
  return command;
}

void add_adapters(CLI::App& c, std::vector<std::string>& adapters, std::string& use) {
  c.add_option("--adapter", adapters, "[NAME=]DIRECTORY of an adapter as PEFT saves it; several times for several that add up. first,second: a chain, the second trained on top of the first")
      ->allow_extra_args(false);
  c.add_option("--use", use, "Which of several adapters: NAME, none, or a weighted sum as in 0.7*law+0.3*tone (default: all of them, each with weight 1)");
}

// How and where the weights are held.
void add_holding(CLI::App& c, std::string& quantization, std::string& device) {
  c.add_option("--quantization", quantization, "Hold the layers' weights as nf4-double (QLoRA), nf4, fp4-double, fp4 or int8")->default_str("none");
  c.add_option("--device", device, "auto (a GPU where there is one), cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}))->capture_default_str();
}

void add_training(CLI::App& app, Action& action) {
  static RunArgs train_args, plan_args;
  static bool help_config = false;
  CLI::App* t = add_run(app, "train", "Tune a model: attune train config.yaml [key=value …]", train_args, true);
  t->add_flag("--help-config", help_config, "Print the reference of all configuration keys");
  t->add_flag("--force", train_args.force, "Start even when the plan says that memory does not suffice");
  t->callback([&action] {
    action = [] {
      if (!help_config) return train(train_args);
      std::fputs(attune::train::config_reference().c_str(), stdout);
      return 0;
    };
  });
  CLI::App* p = add_run(app, "plan", "Memory by part, speed and duration of a run, before it starts", plan_args, true);
  p->add_flag("--all", plan_args.all, "Also show settings that take less memory where the run fits");
  p->callback([&action] { action = [] { return plan(plan_args); }; });
}

void add_bench(CLI::App& app, Action& action) {
  static BenchArgs args;
  CLI::App* b = add_run(app, "bench", "Kernels and a whole training step on this machine, as shares of what it can do at most", args.run, true);
  b->add_option("--steps", args.steps, "Steps that count")->capture_default_str()->check(CLI::Range(1, 1000));
  b->footer("Without a configuration: full AdamW in bf16 on the shape of Qwen2.5-0.5B, 4 x 512 tokens. Weights and tokens are random.");
  b->callback([&action] { action = [] { return bench(args); }; });
}

void add_data(CLI::App& app, Action& action) {
  static RunArgs stats_args;
  static ValidateArgs validate_args;
  static InspectArgs inspect_args;
  static ConvertArgs convert_args;
  CLI::App* d = app.add_subcommand("data", "Look at data the way training will");
  d->require_subcommand(1);
  CLI::App* v = add_run(*d, "validate", "Check every row; report what would be dropped, cut or mended, with file and line", validate_args.run, true);
  v->add_option("--file", validate_args.files, "Check these files by themselves, without a configuration or model");
  v->add_option("--stage", validate_args.stage, "With --file: what rows must be: sft, pt, rm, dpo or kto")->capture_default_str()->check(CLI::IsMember({"sft", "pt", "rm", "dpo", "kto"}));
  v->add_flag_callback("--pretraining", [] { validate_args.stage = "pt"; }, "The same as --stage pt");
  v->callback([&action] { action = [] { return data_validate(validate_args); }; });
  add_run(*d, "stats", "Counts, lengths and what is learnt, of each data set", stats_args, true)->callback([&action] { action = [] { return data_stats(stats_args); }; });
  CLI::App* i = add_run(*d, "inspect", "Show samples token by token, coloured by what is learnt", inspect_args.run, true);
  i->add_option("--count", inspect_args.count, "Samples to show")->capture_default_str();
  i->add_option("--row", inspect_args.row, "Show the row that begins on this line of its file")->check(CLI::PositiveNumber);
  i->add_option("--html", inspect_args.html, "Draw a page into this file instead");
  i->callback([&action] { action = [] { return data_inspect(inspect_args); }; });
  CLI::App* c = d->add_subcommand("convert", "Write any data that can be read as JSONL of another format");
  c->add_option("files", convert_args.files, "Files or directories")->required();
  c->add_option("--from", convert_args.from, "alpaca, sharegpt, messages, text, preference or kto (default: told from the content)");
  c->add_option("--to", convert_args.to, "alpaca, sharegpt, messages or text; preference of pairs, kto of judged answers")->required();
  c->add_option("--out", convert_args.out, "File to write (default: stdout)");
  c->callback([&action] { action = [] { return data_convert(convert_args); }; });
}

void add_models(CLI::App& app, Action& action) {
  static InitArgs i;
  CLI::App* c = app.add_subcommand("init", "Make a randomly initialised model from a config.json");
  c->add_option("--config", i.config, "config.json of a supported family")->required();
  c->add_option("--out", i.out, "Directory to write")->required();
  c->add_option("--seed", i.seed, "Seed")->capture_default_str();
  c->add_option("--dtype", i.dtype, "float32 or bf16")->capture_default_str();
  c->add_option("--tokenizer", i.tokenizer, "Directory whose tokenizer files are copied along");
  c->callback([&action] { action = [] { return init(i); }; });

  static ScoreArgs s;
  c = app.add_subcommand("score", "Negative log-likelihood of each token of each line, as JSON lines");
  c->add_option("--model", s.model, "Model directory")->required();
  add_adapters(*c, s.adapters, s.use);
  add_holding(*c, s.quantization, s.device);
  c->add_option("--file", s.file, "Text, one item a line")->required();
  c->add_flag("--ids", s.ids, "Lines are JSON arrays of token ids");
  c->add_flag("--reward", s.reward, "Rewards of a model of stage: rm instead: of conversations or pairs (a data file), or of each line (.txt, or --ids)");
  c->add_option("--template", s.chat_template, "With --reward: chat template by name; default: the model's own");
  c->add_option("--compute", s.compute, "float32 or bf16")->capture_default_str();
  c->callback([&action] { action = [] { return score(s); }; });

  static MergeArgs m;
  c = app.add_subcommand("merge", "Make adapters part of their base: a model directory that needs no adapter");
  c->add_option("--model", m.model, "Directory of the base model")->required();
  add_adapters(*c, m.adapters, m.use);
  c->get_option("--adapter")->required();
  c->add_option("--base", m.base, "For an adapter that was trained on a quantised base: add it to the 16bit base, or to the dequantized one")
      ->check(CLI::IsMember({"16bit", "dequantized"}));
  c->add_option("--quantization", m.quantization, "How that base was quantised (nf4-double, nf4, fp4-double, fp4, int8); default: what the run recorded beside the adapter");
  c->add_option("--out", m.out, "Directory to write")->required();
  c->add_option("--dtype", m.dtype, "Numbers of the result: auto (as the base has them), float32, bf16, float16")->capture_default_str();
  c->add_option("--file", m.file, "Text, one item a line, on which the result is compared with base and adapter (default: a few sentences)");
  c->add_flag("!--no-check", m.check, "Do not compare the result with base and adapter");
  c->callback([&action] { action = [] { return merge(m); }; });

  static EvalArgs e;
  c = app.add_subcommand("eval", "Scores of generated answers on held-out questions: attune eval config.yaml, or --model and --file");
  c->add_option("arguments", e.arguments, "[config.yaml] [key=value …] as for train: what it holds out is asked");
  c->add_option("--model", e.model, "Model directory (with a configuration: instead of its result)");
  add_adapters(*c, e.adapters, e.use);
  add_holding(*c, e.quantization, e.device);
  c->add_option("--file", e.files, "Questions with answers, in any format that sft reads");
  c->add_option("--template", e.chat_template, "Chat template instead of the model's own");
  c->add_option("--prompt-column", e.prompt_column, "Complete this text column instead of asking through the template");
  c->add_option("--baseline-from", e.baseline_from, "Training files: also report what always giving their most frequent answer reaches");
  c->add_option("--predictions", e.predictions, "Write {prompt, predict, label} lines to this file");
  c->add_option("--max-new-tokens", e.max_new_tokens, "Longest answer (default 32, or max_new_tokens of the configuration)")->check(CLI::Range(1, 1 << 24));
  c->add_option("--batch-size", e.batch_size, "Questions at a time (default 8, or per_device_eval_batch_size of the configuration)")->check(CLI::Range(1, 4096));
  c->add_option("--max-samples", e.max_samples, "Questions of each --file; 0: all")->capture_default_str()->check(CLI::NonNegativeNumber);
  c->add_flag("--json", e.json, "Print the result as JSON");
  c->callback([&action] { action = [] { return evaluate(e); }; });
}

void add_sampling(CLI::App& c, SamplingArgs& s) {
  c.add_option("--max-new-tokens", s.max_new_tokens, "Most tokens of an answer (default: generate 128, chat 1024)")->check(CLI::Range(1, 1 << 24));
  c.add_option("--temperature", s.temperature, "0: always the likeliest token (default 0)")->check(CLI::Range(0.0, 100.0));
  c.add_option("--top-k", s.top_k, "Sample among this many likeliest tokens; 0: all (default 0)")->check(CLI::NonNegativeNumber);
  c.add_option("--top-p", s.top_p, "Sample among the likeliest tokens that reach this probability (default 1)")->check(CLI::Range(0.0, 1.0));
  c.add_option("--min-p", s.min_p, "Sample among tokens with this share of the likeliest one's probability (default 0)")->check(CLI::Range(0.0, 1.0));
  c.add_option("--repetition-penalty", s.repetition_penalty, "Above 1: tokens that are in the text become less likely (default 1)")->check(CLI::Range(0.01, 100.0));
  c.add_option("--stop", s.stop, "Text that ends an answer and is no part of it; may be given several times")->allow_extra_args(false);
  c.add_option("--seed", s.seed, "Seed of sampling")->capture_default_str();
  c.add_flag("--generation-config", s.generation_config, "Take what is not given here from the model's generation_config.json");
  c.add_option("--num-beams", s.num_beams, "Only 1: there is no beam search")->capture_default_str();
}

void add_generation(CLI::App& app, Action& action) {
  static GenerateArgs g;
  CLI::App* c = app.add_subcommand("generate", "Continue a prompt, or answer it with --chat; a file of prompts with --file");
  c->add_option("--model", g.model, "Model directory")->required();
  add_adapters(*c, g.adapters, g.use);
  add_holding(*c, g.quantization, g.device);
  c->add_option("--prompt", g.prompt, "Text to continue, or the question with --chat");
  c->add_option("--file", g.file, "Many prompts: JSONL, JSON, a table, or plain text, one a line");
  c->add_option("--out", g.out, "With --file: write {prompt, predict, label} lines here (default: stdout)");
  c->add_flag("--resume", g.resume, "With --out: continue where an earlier call was ended");
  c->add_option("--batch-size", g.batch_size, "With --file: prompts at a time")->capture_default_str()->check(CLI::Range(1, 4096));
  c->add_option("--samples", g.samples, "With --file: answers to each prompt")->capture_default_str()->check(CLI::Range(1, 1 << 16));
  c->add_flag("--chat", g.chat, "Put the prompt into the model's chat template as a user message");
  c->add_option("--template", g.chat_template, "Chat template instead of the model's own (implies --chat)");
  c->add_option("--system", g.system, "System message (with --chat)");
  add_sampling(*c, g.sampling);
  c->add_option("--compute", g.compute, "float32 or bf16")->capture_default_str();
  c->add_flag("--json", g.json, "Print text, ids and rate as JSON");
  c->callback([&action] { action = [] { return generate(g); }; });

  static ChatArgs h;
  c = app.add_subcommand("chat", "Talk to a model; without a terminal, one user turn a line of stdin");
  c->add_option("--model", h.model, "Model directory")->required();
  add_adapters(*c, h.adapters, h.use);
  add_holding(*c, h.quantization, h.device);
  c->add_option("--template", h.chat_template, "Chat template instead of the model's own");
  c->add_option("--system", h.system, "System message");
  add_sampling(*c, h.sampling);
  c->add_option("--compute", h.compute, "float32 or bf16")->capture_default_str();
  c->callback([&action] { action = [] { return chat(h); }; });
}

void add_text(CLI::App& app, Action& action) {
  static TokenizeArgs t;
  CLI::App* c = app.add_subcommand("tokenize", "Token ids of each line as JSON arrays, or back with --decode");
  c->add_option("--model", t.model, "Directory with a tokenizer")->required();
  c->add_option("--file", t.file, "Lines of text (of JSON arrays with --decode)")->required();
  c->add_flag("--jsonl", t.jsonl, "Each line is a JSON string");
  c->add_flag("--add-special", t.add_special, "Add the tokenizer's own BOS and EOS");
  c->add_flag("--decode", t.decode, "Ids to text, as JSON strings with --jsonl");
  c->callback([&action] { action = [] { return tokenize(t); }; });

  static TokenizerTrainArgs n;
  CLI::App* k = app.add_subcommand("tokenizer", "Make tokenizers");
  k->require_subcommand(1);
  c = k->add_subcommand("train", "Train a byte-level BPE from text files");
  c->add_option("files", n.files, "Text, JSON or JSONL files")->required();
  c->add_option("--out", n.out, "Directory to write")->required();
  c->add_option("--vocab-size", n.vocab_size, "Entries: special tokens, 256 bytes and merges")->capture_default_str()->check(CLI::Range(257, 1 << 22));
  c->add_option("--min-frequency", n.min_frequency, "Merge only pairs seen this often")->capture_default_str()->check(CLI::Range(1, 1 << 30));
  c->add_option("--special", n.special_tokens, "Special tokens, in this order (default <|endoftext|> <|im_start|> <|im_end|>)");
  c->add_option("--pattern", n.pattern, "How words are cut: qwen2 or gpt2")->capture_default_str()->check(CLI::IsMember({"qwen2", "gpt2"}));
  c->add_option("--eos", n.eos, "Which special token ends texts (default: the first)");
  c->add_option("--bos", n.bos, "Which special token begins texts (default: none)");
  c->add_option("--pad", n.pad, "Which special token pads (default: the first)");
  c->add_option("--chat-template", n.chat_template, "File with a Jinja chat template to save along");
  c->callback([&action] { action = [] { return tokenizer_train(n); }; });
}

void add_runs(CLI::App& app, Action& action) {
  static RunsCompareArgs args;
  CLI::App* r = app.add_subcommand("runs", "Look at what runs left behind");
  r->require_subcommand(1);
  CLI::App* c = r->add_subcommand("compare", "Finished runs as one table: method, trained share, losses before and after, time, memory");
  c->add_option("directories", args.directories, "Their output_dir")->required();
  c->add_flag("--json", args.json, "Print as JSON");
  c->add_flag("--markdown", args.markdown, "Print as a Markdown table");
  c->callback([&action] { action = [] { return runs_compare(args); }; });
}

// Threads that wait for each other should give way soon: on a busy machine, spinning through a whole time slice costs
// several times the work itself. The runtime reads its settings when it is loaded, hence the second start.
void restart_with_short_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  ::setenv("GOMP_SPINCOUNT", "2000", 1);
  ::execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  restart_with_short_spinning(argv);
  CLI::App app{"attune: turns a general language model into a specialist by tuning every parameter"};
  app.set_version_flag("--version", std::string("attune ") + ATTUNE_VERSION);
  app.require_subcommand(1);
  app.failure_message(CLI::FailureMessage::help);
  Action action;
  add_training(app, action);
  add_bench(app, action);
  add_data(app, action);
  add_models(app, action);
  add_generation(app, action);
  add_text(app, action);
  add_runs(app, action);
  static bool doctor_json = false;
  CLI::App* d = app.add_subcommand("doctor", "What this machine offers, and what is missing");
  d->add_flag("--json", doctor_json, "Print as JSON");
  d->callback([&action] { action = [] { return doctor(doctor_json); }; });
  try {
    app.parse(argc, argv);
    return action();
  } catch (const CLI::ParseError& e) {
    return app.exit(e, std::cout, std::cerr) == 0 ? 0 : 2;
  } catch (const attune::Error& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return static_cast<int>(e.blame());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: memory is exhausted. `attune plan` says what a run takes and which settings make it fit\n");
    return 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
