#include "util/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "util/error.h"

namespace attune {
namespace {

[[noreturn]] void fail_errno(const char* what, const fs::path& file) {
  const int error = errno;
  fail("{}: cannot {}: {}", file.string(), what, std::strerror(error));
}

}  // namespace

FileReader::FileReader(const fs::path& file) : path_(file) {
  fd_ = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe must not hang us
  if (fd_ < 0) fail_errno("open", file);
  struct stat info {};
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd_);
    fd_ = -1;
    refuse("{}: not a regular file", file.string());
  }
  size_ = static_cast<uint64_t>(info.st_size);
}

FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

void FileReader::read_at(uint64_t offset, void* into, uint64_t bytes) const {
  auto* out = static_cast<char*>(into);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd_, out, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("read", path_);
    if (n == 0) fail("{}: ends early: {} bytes are missing at offset {}", path_.string(), bytes, offset);
    out += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
}

DirectoryLock::DirectoryLock(const fs::path& directory, const std::string& what) {
  fd_ = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);  // the directory itself: no file to leave behind
  if (fd_ < 0) fail_errno("open", directory);
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  ::close(fd_);
  fd_ = -1;
  refuse("{}: another run is writing to {}; wait for it, or choose another directory", what, directory.string());
}

DirectoryLock::~DirectoryLock() {
  if (fd_ >= 0) ::close(fd_);
}

FileWriter::FileWriter(const fs::path& file, unsigned mode) : path_(file) {
  fd_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd_ < 0) fail_errno("create", file);
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(const void* data, uint64_t bytes) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd_, from, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("write", path_);
    from += n;
    bytes -= static_cast<uint64_t>(n);
  }
}

void FileWriter::close() {
  if (fd_ < 0) return;
  const int fd = fd_;
  fd_ = -1;
  const bool synced = ::fsync(fd) == 0;
  if (!synced) {
    const int error = errno;
    ::close(fd);
    errno = error;
    fail_errno("flush", path_);
  }
  if (::close(fd) != 0) fail_errno("close", path_);
}

std::string read_file(const fs::path& file, uint64_t max_bytes) {
  FileReader reader(file);
  if (reader.size() > max_bytes)
    fail("{}: {} bytes, but at most {} are expected here", file.string(), reader.size(), max_bytes);
  std::string content(reader.size(), '\0');
  reader.read_at(0, content.data(), content.size());
  return content;
}

void write_file(const fs::path& file, std::string_view content) {
  FileWriter writer(file);
  writer.write(content.data(), content.size());
  writer.close();
}

void sync_path(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("open", path);
  const int result = ::fsync(fd);
  ::close(fd);
  if (result != 0) fail_errno("flush", path);
}

void write_file_atomic(const fs::path& file, std::string_view content) {
  fs::path temporary = file;
  temporary += ".tmp";
  write_file(temporary, content);
  fs::rename(temporary, file);
  sync_path(file.has_parent_path() ? file.parent_path() : fs::path("."));
}

void publish_file(const fs::path& file, unsigned mode, const std::function<void(FileWriter&)>& fill) {
  fs::path temporary = file;
  temporary += "." + std::to_string(::getpid()) + ".tmp";
  try {
    FileWriter writer(temporary, mode);
    fill(writer);
    writer.close();
    fs::rename(temporary, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_path(file.has_parent_path() ? file.parent_path() : fs::path("."));
}

fs::path safe_child(const fs::path& directory, const std::string& name, const std::string& what) {
  if (name.empty() || name == "." || name == ".." || name.find_first_of("/\\") != std::string::npos ||
      name.find('\0') != std::string::npos)
    fail("{}: the file name \"{}\" leads outside of {}", what, name, directory.string());
  const fs::path child = directory / name;
  std::error_code error;
  if (fs::is_symlink(child, error)) {
    const auto target = fs::weakly_canonical(child, error);
    const auto base = fs::weakly_canonical(directory, error);
    // Hugging Face caches link snapshots/<rev>/file to ../../blobs/<hash>: a link within the cache is fine.
    const auto root = base.parent_path().parent_path();
    const auto relative = target.lexically_relative(base.parent_path().filename() == "snapshots" ? root : base);
    if (relative.empty() || *relative.begin() == "..")
      fail("{}: \"{}\" is a symbolic link that leads outside of {}", what, name, directory.string());
  }
  return child;
}

void create_private_directory(const fs::path& directory) {
  if (directory.has_parent_path()) fs::create_directories(directory.parent_path());
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) fail_errno("create the directory", directory);
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (fs::temp_directory_path() / "attune-XXXXXX").string();
  if (!::mkdtemp(name.data())) fail_errno("create a directory", name);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void publish_directory(const fs::path& directory, const std::function<void(const fs::path&)>& fill) {
  const fs::path parent = directory.has_parent_path() ? directory.parent_path() : fs::path(".");
  fs::create_directories(parent);
  const fs::path temporary = parent / (".tmp-" + directory.filename().string());
  fs::remove_all(temporary);
  fs::create_directory(temporary);
  try {
    fill(temporary);
  } catch (...) {  // on a full disk, what is half there only takes room
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  for (const auto& entry : fs::recursive_directory_iterator(temporary)) sync_path(entry.path());
  sync_path(temporary);
  const fs::path old = parent / (".old-" + directory.filename().string());
  fs::remove_all(old);
  if (fs::exists(directory)) fs::rename(directory, old);
  fs::rename(temporary, directory);
  sync_path(parent);
  fs::remove_all(old);
}

}  // namespace attune
