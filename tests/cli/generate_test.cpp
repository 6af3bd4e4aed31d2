// generate with files of prompts, and chat.
#include <pty.h>

#include <algorithm>
#include <cstdlib>

#include "cli/program.h"

namespace attune {
namespace {

using namespace test;
using List = std::vector<std::string>;

class Prompts : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = new Workspace;
    Json config = small_llama_config();
    config["initializer_range"] = 0.25;
    make_small_model(*work_ / "model", config);
  }
  static void TearDownTestSuite() { delete work_; }
  static std::string at(const std::string& name) { return (*work_ / name).string(); }
  static Result generate(const std::string& file, List more) {
    more.insert(more.begin(), {"generate", "--model", at("model"), "--file", at(file), "--max-new-tokens", "6"});
    return run(more);
  }
  static std::vector<Json> rows(const std::string& text) {
    std::vector<Json> out;
    for (const auto& line : lines_of(text)) out.push_back(parse_json(line, "row"));
    return out;
  }
  static Workspace* work_;
};
Workspace* Prompts::work_ = nullptr;

TEST_F(Prompts, RowsOfEveryShapeAreAnswered) {
  work_->write("rows.jsonl",
               "{\"instruction\":\"Name it\",\"input\":\"a cat\",\"output\":\"cat\"}\n{\"prompt\":\"Once upon\"}\n"
               "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"content\":\"Ho\"},{\"role\":\"user\",\"content\":\"Now?\"}]}\n"
               "{\"conversations\":[{\"from\":\"human\",\"value\":\"Q\"},{\"from\":\"gpt\",\"value\":\"A\"}]}\n{\"question\":\"Why\"}\n");
  const Result r = generate("rows.jsonl", {"--template", "alpaca"});
  ASSERT_EQ(r.code, 0) << r.err;
  const auto out = rows(r.out);
  ASSERT_EQ(out.size(), 5u);
  const List prompts{"Name it\na cat", "Once upon", "Now?", "Q", "Why"};
  const List labels{"cat", "", "", "A", ""};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(out[i]["prompt"], prompts[i]);
    EXPECT_TRUE(out[i]["predict"].is_string());
    EXPECT_EQ(out[i].value("label", ""), labels[i]);
    EXPECT_EQ(out[i].contains("label"), !labels[i].empty());
  }
  // Alone, a prompt gets what it gets in the file.
  const Result one = run({"generate", "--model", at("model"), "--prompt", "Why", "--template", "alpaca", "--max-new-tokens", "6"});
  EXPECT_EQ(one.out, out[4]["predict"].get<std::string>() + "\n");
}

TEST_F(Prompts, LinesAreContinuedWhateverTheBatch) {
  std::string text;
  for (int i = 0; i < 9; ++i) text += fmt::format("The {} cat{}\n", i, std::string(static_cast<size_t>(i), '!'));
  work_->write("lines.txt", text + "\n   \n");
  for (const List& more : std::vector<List>{{}, {"--temperature", "1", "--samples", "2"}}) {
    List single = more, large = more;
    single.insert(single.end(), {"--batch-size", "1"});
    large.insert(large.end(), {"--batch-size", "5", "--out", at("lines.jsonl")});
    const Result r = generate("lines.txt", single);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(rows(r.out).size(), more.empty() ? 9u : 18u);
    EXPECT_EQ(generate("lines.txt", large).out, "");
    EXPECT_EQ(read_file(at("lines.jsonl")), r.out);
    EXPECT_FALSE(fs::exists(at("lines.jsonl.partial")));
  }
}

TEST_F(Prompts, RowsThatCannotBeAnsweredSayWhyAndTheRestGoesOn) {
  std::string longer;
  for (int i = 0; i < 400; ++i) longer += "cat ";
  work_->write("bad.jsonl", "{\"prompt\":\"Once\"}\n{\"prompt\":\"" + longer + "\"}\n{\"nothing\":1}\n{\"prompt\":3}\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n");
  const Result r = generate("bad.jsonl", {"--out", at("bad_out.jsonl")});
  EXPECT_EQ(r.code, 1);
  const auto out = rows(read_file(at("bad_out.jsonl")));
  ASSERT_EQ(out.size(), 5u);
  EXPECT_TRUE(out[0].contains("predict"));
  const List reasons{"", "the model's context 256", "nothing to answer", "must be a string", "needs a chat template"};
  for (size_t i = 1; i < 5; ++i) {
    const std::string error = out[i].value("error", "");
    EXPECT_TRUE(says(error, fmt::format("bad.jsonl:{}: ", i + 1)) && says(error, reasons[i])) << error;
    EXPECT_TRUE(says(r.err, reasons[i])) << r.err;
    EXPECT_FALSE(out[i].contains("predict"));
  }
  work_->write("worse.jsonl", "{\"nothing\":1}\n");
  expect_failure(generate("worse.jsonl", {}), 2, "worse.jsonl:1");
}

TEST_F(Prompts, AKilledJobContinues) {
  std::string slow;
  for (int i = 0; i < 400; ++i) slow += fmt::format("Number {} and\n", i);
  work_->write("slow.txt", slow);
  const List job{"generate", "--model", at("model"), "--file", at("slow.txt"), "--max-new-tokens", "40", "--out", at("slow.jsonl"), "--batch-size", "2"};
  const std::string answer = "\"predict\": \"", written = at("slow.jsonl.partial");
  ASSERT_EQ(run_until(job, [&](double) { return fs::exists(written) && says(read_file(written), answer); }).code, -SIGKILL);
  EXPECT_FALSE(fs::exists(at("slow.jsonl")));
  std::string partial = read_file(written);
  const size_t first = partial.find(answer);
  partial.insert(first + answer.size(), "KEPT ");
  work_->write("slow.jsonl.partial", partial + "{\"row\": 39");
  expect_failure(run(job), 2, "unfinished job");
  List again = job;
  again.insert(again.end(), {"--resume", "--max-new-tokens", "41"});
  again.erase(again.begin() + 5, again.begin() + 7);
  expect_failure(run(again), 2, "max_new_tokens was 40");
  again = job;
  again.push_back("--resume");
  const Result r = run(again);
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(says(r.err, "are there already")) << r.err;
  const std::string out = read_file(at("slow.jsonl"));
  EXPECT_EQ(rows(out).size(), 400u);
  EXPECT_TRUE(says(out, "KEPT "));
  EXPECT_FALSE(fs::exists(at("slow.jsonl.partial")));
  EXPECT_TRUE(says(run(again).err, "complete already"));
}

TEST_F(Prompts, OptionsThatCannotBeAreRefused) {
  work_->write("one.txt", "x\n");
  const List model{"generate", "--model", at("model")};
  const auto with = [&](List more) {
    more.insert(more.begin(), model.begin(), model.end());
    return run(more);
  };
  expect_failure(with({"--prompt", "x", "--num-beams", "4"}), 2, "no beam search");
  expect_failure(with({}), 2, "one of --prompt and --file");
  expect_failure(with({"--prompt", "x", "--file", at("one.txt")}), 2, "one of --prompt and --file");
  expect_failure(with({"--prompt", "x", "--resume"}), 2, "--resume is for --file");
  expect_failure(with({"--file", at("one.txt"), "--samples", "3"}), 2, "set --temperature");
  expect_failure(with({"--file", at("none.txt")}), 2, "does not exist");
  expect_failure(with({"--file", at("one.txt"), "--out", at("no/where.jsonl")}), 2, "does not exist");
  expect_failure(with({"--prompt", "x", "--generation-config"}), 2, "generation_config.json does not exist");
}

TEST_F(Prompts, StopTextsAndGenerationConfigAreObeyed) {
  const auto say = [&](List more) {
    more.insert(more.begin(), {"generate", "--prompt", "Once upon", "--max-new-tokens", "24"});
    const Result r = run(more);
    EXPECT_EQ(r.code, 0) << r.err;
    return r;
  };
  const std::string whole = say({"--model", at("model")}).out;
  ASSERT_GT(whole.size(), 12u);
  const std::string stop = whole.substr(6, 3);
  EXPECT_EQ(say({"--model", at("model"), "--stop", stop, "--stop", "never there"}).out, whole.substr(0, whole.find(stop)) + "\n");
  fs::copy(at("model"), at("configured"));
  work_->write("configured/generation_config.json", R"({"do_sample": true, "temperature": 0.9, "top_k": 20, "num_beams": 2, "repetition_penalty": 1.3})");
  EXPECT_EQ(say({"--model", at("configured")}).out, whole);
  const Result asked = say({"--model", at("configured"), "--generation-config"});
  EXPECT_TRUE(says(asked.err, "\"num_beams\" is not supported")) << asked.err;
  EXPECT_EQ(asked.out, say({"--model", at("model"), "--temperature", "0.9", "--top-k", "20", "--repetition-penalty", "1.3"}).out);
  EXPECT_EQ(say({"--model", at("configured"), "--generation-config", "--temperature", "0", "--repetition-penalty", "1"}).out, whole);
}

// With lines instead of a terminal.
class Chat : public Prompts {
 protected:
  static Result chat(const std::string& input, const std::string& more = "") {
    work_->write("chat.in", input);
    Result r;
    r.code = WEXITSTATUS(std::system(fmt::format("timeout 60 '{}' chat --model '{}' --template alpaca --max-new-tokens 8 {} < '{}' > '{}' 2> '{}'", ATTUNE_PROGRAM, at("model"),
                                                 more, at("chat.in"), at("chat.out"), at("chat.err")).c_str()));
    r.out = read_file(at("chat.out")), r.err = read_file(at("chat.err"));
    return r;
  }
};

TEST_F(Chat, AnswersALineATurnAndRemembers) {
  const Result one = chat("Hi there\n"), two = chat("Hi there\nAnd now?");
  EXPECT_EQ(two.code, 0) << two.err;
  EXPECT_TRUE(two.out.starts_with(one.out));
  EXPECT_GT(two.out.size(), one.out.size());
  EXPECT_FALSE(says(two.out, "\x1b"));
  // The second answer is that to the whole conversation.
  const std::string first = one.out.substr(0, one.out.size() - 1);
  const Json row = {{"messages", {{{"role", "user"}, {"content", "Hi there"}}, {{"role", "assistant"}, {"content", first}}, {{"role", "user"}, {"content", "And now?"}}}}};
  work_->write("turn.jsonl", row.dump() + "\n");
  const Result file = run({"generate", "--model", at("model"), "--file", at("turn.jsonl"), "--template", "alpaca", "--max-new-tokens", "8"});
  EXPECT_EQ(two.out.substr(one.out.size()), rows(file.out)[0]["predict"].get<std::string>() + "\n");
}

TEST_F(Chat, CommandsDoWhatTheySay) {
  const std::string first = chat("One\n").out;
  const Result r = chat("One\nTwo\n/undo\n/save " + at("saved.jsonl") + "\n/reset\nOne\n/retry\n/system Be kind\nOne\n/history\n//x\n/exit\nnever\n");
  EXPECT_EQ(r.code, 0) << r.err;
  const Json saved = parse_json(lines_of(read_file(at("saved.jsonl")))[0], "saved");
  ASSERT_EQ(saved["conversations"].size(), 2u);
  EXPECT_EQ(saved["conversations"][0]["value"], "One");
  EXPECT_EQ(saved["conversations"][1]["value"].get<std::string>() + "\n", first);
  EXPECT_TRUE(says(r.err, "taken back: Two"));
  EXPECT_TRUE(says(r.err, "at temperature 0")) << r.err;
  EXPECT_TRUE(says(r.out, "system: Be kind\nuser: One\nassistant: ")) << r.out;
  size_t same = 0;
  for (size_t p = 0; (p = r.out.find(first, p)) != std::string::npos; ++p) ++same;
  EXPECT_GE(same, 3u);
  EXPECT_FALSE(says(r.out, "never"));
  const Result wrong = chat("/fly\n/undo\n/save\nOne\n");
  EXPECT_EQ(wrong.code, 1);
  EXPECT_EQ(wrong.out, first);
  EXPECT_TRUE(says(wrong.err, "no such command"));
}

TEST_F(Chat, AFullContextDropsTheOldestTurnsAndSaysSo) {
  std::string input;
  for (int i = 0; i < 12; ++i) input += fmt::format("This is the long question number {} of this very long day\n", i);
  const Result r = chat(input + "/history\n", "--system 'Be kind'");
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(says(r.err, "the oldest 2 messages are left out")) << r.err;
  EXPECT_TRUE(says(r.out, "system: Be kind"));
  EXPECT_TRUE(says(r.out, "question number 0")) << "history keeps what the model no longer sees";
  EXPECT_TRUE(says(r.out, "no longer fits"));
  const Result one = chat(std::string(3000, 'x') + "\nHi\n");
  EXPECT_EQ(one.code, 1);
  EXPECT_TRUE(says(one.err, "no room for an answer")) << one.err;
  EXPECT_EQ(one.out, chat("Hi\n").out);
}

TEST_F(Chat, ControlCStopsTheAnswerAndNotTheProgram) {
  Json config = small_llama_config();
  config["max_position_embeddings"] = 1 << 20;
  config["initializer_range"] = 0.01;  // next to nothing but the tied embedding: it repeats one token without end
  make_small_model(*work_ / "endless", config);
  int terminal = -1;
  const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::setenv("TERM", "xterm", 1), ::setenv("NO_COLOR", "1", 1);
    ::execl(ATTUNE_PROGRAM, ATTUNE_PROGRAM, "chat", "--model", at("endless").c_str(), "--template", "alpaca", "--max-new-tokens", "1000000", nullptr);
    ::_exit(127);
  }
  std::string seen;
  const auto until = [&](const std::string& part, size_t bytes) {
    char piece[4096];
    while (!says(seen, part) || seen.size() < bytes) {
      const ssize_t n = ::read(terminal, piece, sizeof piece);
      if (n <= 0) return false;
      seen.append(piece, static_cast<size_t>(n));
    }
    return true;
  };
  const auto type = [&](const std::string& text) { ASSERT_EQ(::write(terminal, text.data(), text.size()), static_cast<ssize_t>(text.size())); };
  ::alarm(60);  // a hang fails the program rather than the day
  ASSERT_TRUE(until("> ", 0)) << seen;
  type("Hi\n");
  ASSERT_TRUE(until("Hi", seen.size() + 200)) << seen;
  type("\x03");
  ASSERT_TRUE(until("stopped", 0)) << seen;
  type("/history\n");
  ASSERT_TRUE(until("assistant: ", 0)) << seen;
  type("\x04");
  int status = 0;
  while (until("nothing says this", 0)) {}
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ::alarm(0);
  ::close(terminal);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << seen;
  EXPECT_FALSE(says(seen, "\x1b[1;")) << seen;  // NO_COLOR
}

}  // namespace
}  // namespace attune
