// The file system, the careful way: whole-file reads with clear errors, atomic and durable writes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace attune {

namespace fs = std::filesystem;

// Reads a whole file. `max_bytes` guards against files that cannot be what they claim.
std::string read_file(const fs::path& file, uint64_t max_bytes = uint64_t{1} << 32);

// Writes next to `file`, flushes to the disk and renames over it: after a crash the old or the new content
// is there, never half of one.
void write_file_atomic(const fs::path& file, std::string_view content);

// A plain write for logs and results inside a directory that is itself published atomically.
void write_file(const fs::path& file, std::string_view content);

// fsync of a file or directory by path.
void sync_path(const fs::path& path);

// Joins an untrusted name below `directory`; refuses absolute names, "..", separators and symbolic links that
// lead outside. `what` names the place the name came from.
fs::path safe_child(const fs::path& directory, const std::string& name, const std::string& what);

// Creates `directory` for its owner alone, and what is above it as usual. One that exists stays as it is.
void create_private_directory(const fs::path& directory);

// A directory of its own below the system's one for temporary files; gone with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A directory that becomes visible as a whole: `fill` writes into a temporary sibling, which is synced and
// renamed to `directory`. Anything already at `directory` is replaced.
void publish_directory(const fs::path& directory, const std::function<void(const fs::path&)>& fill);

// Sequential reads and positioned reads without mapping the file (a file truncated under us is an error, not SIGBUS).
class FileReader {
 public:
  explicit FileReader(const fs::path& file);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;
  uint64_t size() const { return size_; }
  const fs::path& path() const { return path_; }
  void read_at(uint64_t offset, void* into, uint64_t bytes) const;

 private:
  fs::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// Keeps a second process out of a directory. The lock goes with the process, however it ends.
class DirectoryLock {
 public:
  // Refuses where another process holds it; `what` names the setting in the message.
  DirectoryLock(const fs::path& directory, const std::string& what);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_ = -1;
};

// Buffered sequential writer; `close` makes the bytes durable and throws when the disk is full.
class FileWriter {
 public:
  explicit FileWriter(const fs::path& file, unsigned mode = 0644);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(const void* data, uint64_t bytes);
  void close();

 private:
  fs::path path_;
  int fd_ = -1;
};

// A file that becomes visible as a whole: `fill` writes a temporary sibling of its own name, `<file>.<process>.tmp`, so that
// several processes may publish one file at once. Nothing stays behind where it throws.
void publish_file(const fs::path& file, unsigned mode, const std::function<void(FileWriter&)>& fill);

}  // namespace attune
