#include "data/token_cache.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>

#include "util/error.h"
#include "util/files.h"
#include "util/hash.h"
#include "util/log.h"
#include "util/machine.h"

namespace attune::data {
namespace {

constexpr char kMagic[16] = "attune tokens 2";
constexpr uint32_t kOrder = 0x01020304;  // of bytes in a number
constexpr const char* kExtension = ".tokens";
constexpr size_t kKeyDigits = 32;

// Behind it: ids, runs, samples as they lie in memory, then everything that is text.
struct Header {
  char magic[16];
  uint32_t order, sample_bytes;
  char key[kKeyDigits];
  uint64_t ids, runs, samples, text;  // counts; of text, bytes
  uint64_t checksum;                  // of all behind the header, begun with that of all before it
};
static_assert(sizeof(Header) == 96 && sizeof(TokenSet::Sample) == 32 && sizeof(Weights::Run) == 8);

template <class T>
std::string_view bytes_of(const std::vector<T>& v) {
  return {reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T)};
}

uint64_t checksum_of(const Header& header, const TokenSet::Storage& s, std::string_view text) {
  const uint64_t head = hash64({reinterpret_cast<const char*>(&header), offsetof(Header, checksum)});
  return hash64(text, hash64(bytes_of(s.samples), hash64(bytes_of(s.runs), hash64(bytes_of(s.ids), head))));
}

class TextWriter {
 public:
  void number(int64_t n) { out_.append(reinterpret_cast<const char*>(&n), sizeof n); }
  void text(std::string_view t) {
    number(static_cast<int64_t>(t.size()));
    out_ += t;
  }
  void list(const std::vector<std::string>& texts) {
    number(static_cast<int64_t>(texts.size()));
    for (const std::string& t : texts) text(t);
  }
  const std::string& bytes() const { return out_; }

 private:
  std::string out_;
};

class TextReader {
 public:
  explicit TextReader(std::string_view in) : in_(in) {}
  int64_t number() {
    int64_t n = 0;
    if (in_.size() < sizeof n) fail("its text ends early");
    std::memcpy(&n, in_.data(), sizeof n);
    in_.remove_prefix(sizeof n);
    return n;
  }
  // How many things follow; each takes at least eight bytes.
  int64_t count() {
    const int64_t n = number();
    if (n < 0 || static_cast<uint64_t>(n) > in_.size() / sizeof n) fail("its text ends early");
    return n;
  }
  std::string text() {
    const int64_t n = number();
    if (n < 0 || static_cast<uint64_t>(n) > in_.size()) fail("its text ends early");
    const std::string out(in_.substr(0, static_cast<size_t>(n)));
    in_.remove_prefix(static_cast<size_t>(n));
    return out;
  }
  std::vector<std::string> list() {
    std::vector<std::string> out;
    for (int64_t n = count(); n > 0; --n) out.push_back(text());
    return out;
  }
  void finish() const {
    if (!in_.empty()) fail("something stands behind its text");
  }

 private:
  std::string_view in_;
};

void write_report(TextWriter& out, const DataReport& report) {
  // Reasons repeat.
  std::map<std::string, int64_t> numbers;
  std::vector<std::string> reasons;
  for (const DataReport::Entry& e : report.entries())
    if (numbers.emplace(e.reason, reasons.size()).second) reasons.push_back(e.reason);
  out.list(reasons);
  out.number(static_cast<int64_t>(report.entries().size()));
  for (const DataReport::Entry& e : report.entries()) {
    out.number(static_cast<int64_t>(e.action));
    out.number(numbers.at(e.reason));
    out.text(e.where);
  }
}

DataReport read_report(TextReader& in) {
  DataReport report;
  const std::vector<std::string> reasons = in.list();
  for (int64_t n = in.count(); n > 0; --n) {
    const int64_t action = in.number(), reason = in.number();
    if (action < 0 || action > static_cast<int64_t>(DataReport::Action::noted) || reason < 0 || static_cast<size_t>(reason) >= reasons.size())
      fail("its report is not in order");
    report.add(static_cast<DataReport::Action>(action), reasons[static_cast<size_t>(reason)], in.text());
  }
  return report;
}

std::map<std::string, std::vector<float>> read_channels(TextReader& in, size_t samples) {
  std::map<std::string, std::vector<float>> channels;
  for (int64_t n = in.count(); n > 0; --n) {
    std::vector<float>& numbers = channels[in.text()];
    const std::string bytes = in.text();
    if (bytes.size() % sizeof(float) != 0 || bytes.size() / sizeof(float) > samples) fail("it has numbers that belong to no sample");
    numbers.resize(bytes.size() / sizeof(float));
    std::memcpy(numbers.data(), bytes.data(), bytes.size());
    if (!std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x); })) fail("a number beside a sample is not finite");
  }
  return channels;
}

std::string text_of(const TokenizedData& data) {
  TextWriter out;
  out.list(data.set.storage().files);
  out.list(data.set.storage().sources);
  out.list(data.files);
  out.number(data.rows_read);
  out.number(data.conversations);
  out.number(data.set.group_size());
  out.number(static_cast<int64_t>(data.set.side_channels.size()));
  for (const auto& [channel, numbers] : data.set.side_channels) {
    out.text(channel);
    out.text(bytes_of(numbers));
  }
  write_report(out, data.report);
  return out.bytes();
}

bool is_token_file(const fs::path& path) {
  const std::string stem = path.stem().string();
  return path.extension() == kExtension && stem.size() == kKeyDigits && stem.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// What a process that was killed left behind: "<key>.tokens.<process>.tmp".
bool is_leftover(const fs::directory_entry& entry) {
  std::error_code error;
  const auto age = fs::file_time_type::clock::now() - entry.last_write_time(error);
  return !error && entry.path().extension() == ".tmp" && is_token_file(entry.path().stem().stem()) && age > std::chrono::hours(24);
}

}  // namespace

void write_token_file(const fs::path& file, const std::string& key, const TokenizedData& data) {
  const TokenSet::Storage& s = data.set.storage();
  const std::string text = text_of(data);
  Header header{{}, kOrder, sizeof(TokenSet::Sample), {}, s.ids.size(), s.runs.size(), s.samples.size(), text.size(), 0};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  if (key.size() != kKeyDigits) fail("internal error: \"{}\" is no key of tokens", key);
  std::memcpy(header.key, key.data(), kKeyDigits);
  header.checksum = checksum_of(header, s, text);
  publish_file(file, 0600, [&](FileWriter& out) {
    out.write(&header, sizeof header);
    for (const std::string_view part : {bytes_of(s.ids), bytes_of(s.runs), bytes_of(s.samples), std::string_view(text)})
      out.write(part.data(), part.size());
  });
}

TokenizedData read_token_file(const fs::path& file, const std::string& key) {
  const FileReader in(file);
  Header header;
  if (in.size() < sizeof header) fail("it is cut off");
  in.read_at(0, &header, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.order != kOrder || header.sample_bytes != sizeof(TokenSet::Sample))
    fail("it is not a file of tokens of this version");
  if (key != std::string_view(header.key, kKeyDigits)) fail("it holds other data than its name says");
  // Counts are believed only where they add up to the size: memory stays in proportion.
  const uint64_t rest = in.size() - sizeof header;
  const auto fits = [&](uint64_t count, uint64_t bytes) { return count <= rest / bytes; };
  if (!fits(header.ids, 4) || !fits(header.runs, 8) || !fits(header.samples, 32) || !fits(header.text, 1) ||
      header.ids * 4 + header.runs * 8 + header.samples * 32 + header.text != rest)
    fail("its size is not as its header says");
  TokenSet::Storage s;
  std::string text;
  s.ids.resize(header.ids), s.runs.resize(header.runs), s.samples.resize(header.samples), text.resize(header.text);
  uint64_t at = sizeof header;
  const auto read = [&](void* into, uint64_t bytes) {
    in.read_at(at, into, bytes);
    at += bytes;
  };
  read(s.ids.data(), header.ids * 4);
  read(s.runs.data(), header.runs * 8);
  read(s.samples.data(), header.samples * 32);
  read(text.data(), header.text);
  if (checksum_of(header, s, text) != header.checksum) fail("its checksum is wrong");
  TextReader texts(text);
  TokenizedData data;
  s.files = texts.list();
  s.sources = texts.list();
  data.files = texts.list();
  data.rows_read = texts.number();
  data.conversations = texts.number() != 0;
  s.group_size = texts.number();
  auto channels = read_channels(texts, s.samples.size());
  data.report = read_report(texts);
  texts.finish();
  data.set = TokenSet(std::move(s));
  data.set.side_channels = std::move(channels);
  return data;
}

fs::path TokenCache::file_of(const std::string& key) const { return directory_ / (key + kExtension); }

bool TokenCache::has(const std::string& key) const {
  std::error_code error;
  return fs::exists(file_of(key), error);
}

std::optional<TokenizedData> TokenCache::load(const std::string& key) const {
  if (!has(key)) return std::nullopt;
  const fs::path file = file_of(key);
  try {
    TokenizedData data = read_token_file(file, key);
    std::error_code ignored;  // a directory that may only be read serves as well
    fs::last_write_time(file, fs::file_time_type::clock::now(), ignored);
    return data;
  } catch (const std::exception& e) {
    notice("the tokenised data in {} cannot be used: {}. The data is tokenised again", file.string(), e.what());
    return std::nullopt;
  }
}

void TokenCache::store(const std::string& key, const TokenizedData& data) const {
  const fs::path file = file_of(key);
  const TokenSet::Storage& s = data.set.storage();
  const uint64_t bytes = s.ids.size() * 4 + s.runs.size() * 8 + s.samples.size() * 32;
  if (most_bytes_ > 0 && bytes > most_bytes_)
    return notice("the tokenised data ({}) is not kept: the cache holds at most {}. Set tokenized_path to keep it", format_bytes(bytes),
                  format_bytes(most_bytes_));
  try {
    create_private_directory(directory_);
    write_token_file(file, key, data);
    make_room(file);
  } catch (const std::exception& e) {
    notice("the tokenised data is not kept: {}. The run goes on without", e.what());
  }
}

void TokenCache::make_room(const fs::path& newest) const {
  if (most_bytes_ == 0) return;
  struct Kept {
    fs::file_time_type used;
    uint64_t bytes;
    fs::path file;
  };
  std::vector<Kept> kept;
  uint64_t total = fs::file_size(newest);
  std::error_code error;  // another process may delete the same files
  for (const auto& entry : fs::directory_iterator(directory_)) {
    if (!entry.is_regular_file(error) || entry.is_symlink(error)) continue;
    if (is_leftover(entry)) fs::remove(entry.path(), error);
    if (!is_token_file(entry.path()) || entry.path() == newest) continue;
    Kept k{entry.last_write_time(error), 0, entry.path()};
    if (!error) k.bytes = entry.file_size(error);
    if (error) continue;
    total += k.bytes;
    kept.push_back(std::move(k));
  }
  std::sort(kept.begin(), kept.end(), [](const Kept& a, const Kept& b) { return a.used < b.used; });
  for (const Kept& k : kept) {
    if (total <= most_bytes_) return;
    fs::remove(k.file, error);
    total -= k.bytes;
  }
}

}  // namespace attune::data
