#include "formats/torch_file.h"

#include "formats/pickle.h"
#include "formats/zip_archive.h"
#include "util/error.h"

namespace attune::formats {
namespace {

constexpr uint64_t kMaxPickle = 16 << 20;

// torch puts everything into one folder, whose name it takes from the file.
std::string folder_of(const std::map<std::string, ZipEntry>& entries, const std::string& where) {
  std::string folder;
  for (const auto& [name, entry] : entries) {
    if (!name.ends_with("/data.pkl") || name.find('/') != name.size() - 9) continue;
    if (!folder.empty()) fail("{}: holds more than one data.pkl", where);
    folder = name.substr(0, name.size() - 8);
  }
  if (folder.empty()) fail("{}: a zip archive without data.pkl; expected weights that torch.save wrote", where);
  return folder;
}

std::string content(const FileReader& reader, const ZipEntry& entry) {
  if (entry.bytes > kMaxPickle)
    fail("{}: its pickle has {} bytes; at most {} are expected of a file of weights", reader.path().string(), entry.bytes, kMaxPickle);
  std::string out(entry.bytes, '\0');
  reader.read_at(entry.offset, out.data(), out.size());
  return out;
}

bool contiguous(const PickledTensor& t) {
  int64_t expected = 1;
  for (size_t i = t.shape.size(); i-- > 0;) {
    if (t.shape[i] != 1 && t.strides[i] != expected) return false;
    expected *= t.shape[i];
  }
  return true;
}

TensorInfo place(const PickledTensor& t, const ZipEntry& storage, const std::string& where) {
  TensorInfo info;
  info.name = t.name;
  info.dtype = t.dtype;
  info.shape = t.shape;
  for (int64_t n : t.shape)
    if (n < 0) fail("{}: the shape of tensor \"{}\" has a negative size", where, t.name);
  info.bytes = bytes_of_tensor(info, where);
  const uint64_t size = bits_of_dtype(t.dtype) / 8;
  if (static_cast<uint64_t>(t.storage_elements) != storage.bytes / size || storage.bytes % size != 0)
    fail("{}: storage {} is said to have {} elements of {} but has {} bytes", where, t.storage, t.storage_elements, t.dtype, storage.bytes);
  const uint64_t count = info.bytes / size;
  if (t.offset < 0 || static_cast<uint64_t>(t.offset) > storage.bytes / size || count > storage.bytes / size - static_cast<uint64_t>(t.offset))
    fail("{}: tensor \"{}\" reaches beyond its storage", where, t.name);
  if (count > 0 && !contiguous(t))
    fail("{}: tensor \"{}\" is not contiguous (a transposed or strided view); save it with .contiguous(), or as safetensors", where, t.name);
  info.offset = storage.offset + static_cast<uint64_t>(t.offset) * size;
  return info;
}

}  // namespace

TorchFile::TorchFile(const fs::path& file) : TensorFile(file) {
  const std::string where = file.string();
  if (!looks_like_zip(reader_))
    fail("{}: is not a zip archive. What torch.save wrote before PyTorch 1.6 is not read: load and save it again with a newer "
         "PyTorch, or convert it to safetensors", where);
  const auto entries = read_zip_directory(reader_);
  const std::string folder = folder_of(entries, where);
  if (const auto order = entries.find(folder + "byteorder"); order != entries.end() && content(reader_, order->second) != "little")
    fail("{}: was written on a big-endian machine; only little-endian files are read", where);
  for (const PickledTensor& t : read_state_dict(content(reader_, entries.at(folder + "data.pkl")), where)) {
    const auto storage = entries.find(folder + "data/" + t.storage);
    if (storage == entries.end()) fail("{}: tensor \"{}\" lies in the storage \"{}\", which the archive does not hold", where, t.name, t.storage);
    tensors_.push_back(place(t, storage->second, where));
  }
  index_tensors();
}

}  // namespace attune::formats
