#include "core/mapping.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <system_error>

namespace blatam {

namespace {

// Of newer headers than some compilers come with.
constexpr int kPopulateRead = 22;

size_t page_bytes() noexcept {
  static const auto bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

Mapping::Mapping(int descriptor, size_t bytes) : bytes_(bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  data_ = static_cast<const uint8_t*>(data);
  struct stat file;
  const uid_t user = geteuid();
  may_ask_ = fstat(descriptor, &file) == 0 && (user == 0 || user == file.st_uid);
}

Mapping::~Mapping() { munmap(const_cast<uint8_t*>(data_), bytes_); }

bool Mapping::populate(size_t offset, size_t bytes) const noexcept {
  if (offset > bytes_ || bytes > bytes_ - offset) return false;
  const size_t before = offset % page_bytes();
  const uint8_t* const from = data_ + offset - before;
  bytes += before;
  // Asking is ten times cheaper than populating what is populated already.
  if (may_ask_ && resident(from, bytes)) return true;
  int failed;
  do {
    failed = madvise(const_cast<uint8_t*>(from), bytes, kPopulateRead);
  } while (failed != 0 && (errno == EINTR || errno == EAGAIN));
  return failed == 0;
}

bool Mapping::resident(const uint8_t* from, size_t bytes) const noexcept {
  std::array<unsigned char, 512> pages;
  const size_t most = pages.size() * page_bytes();
  for (; bytes > 0; from += most) {
    const size_t part = std::min(bytes, most);
    if (mincore(const_cast<uint8_t*>(from), part, pages.data()) != 0) return false;
    const auto end =
        pages.begin() + static_cast<std::ptrdiff_t>((part + page_bytes() - 1) / page_bytes());
    if (!std::all_of(pages.begin(), end, [](unsigned char page) { return (page & 1) != 0; })) {
      return false;
    }
    bytes -= part;
  }
  return true;
}

}  // namespace blatam
