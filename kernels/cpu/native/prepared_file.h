// The prepared model file: kernels/prepare/prepared_file.py writes it and says what it looks like.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace dpa1 {

/// A file that is no prepared model file of this version, or was damaged.
struct BadFile : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct PreparedFile {
  static constexpr uint32_t VERSION = 1;
  static constexpr size_t HEAD = 24, ENTRY = 16;

  std::map<std::string, std::vector<double>> numbers;
  std::map<std::string, std::string> texts;
  uint32_t checksum = 0;

  explicit PreparedFile(const char* path) {
    const std::vector<unsigned char> bytes = contents(path);
    const unsigned char* p = bytes.data();
    if (bytes.size() < 8 || std::memcmp(p, "dpa1fast", 8) != 0)
      throw BadFile("is not a prepared model file; `dpa1-fast compile MODEL OUT` writes one");
    if (bytes.size() < HEAD) throw BadFile("is cut short; compile it again");
    const uint32_t version = at<uint32_t>(p + 8);
    if (version != VERSION)
      throw BadFile("is of version " + std::to_string(version) + " of prepared model files, and this library reads version " +
                    std::to_string(VERSION) + "; compile it again with this dpa1-fast");
    if (at<uint64_t>(p + 16) != bytes.size())
      throw BadFile("is cut short or damaged: it should have " + std::to_string(at<uint64_t>(p + 16)) + " bytes and has " +
                    std::to_string(bytes.size()) + "; compile it again");
    checksum = at<uint32_t>(p + 12);
    if (crc32(p + 16, bytes.size() - 16) != checksum) throw BadFile("is damaged: its checksum is wrong; compile it again");
    for (size_t k = HEAD; k < bytes.size();) k = entry(bytes, k);
  }

 private:
  template <class T>
  static T at(const unsigned char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }

  static std::vector<unsigned char> contents(const char* path) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "rb"), std::fclose);
    if (!file) throw BadFile("cannot be read: is there such a file?");
    std::vector<unsigned char> bytes;
    unsigned char some[1 << 16];
    for (size_t n; (n = std::fread(some, 1, sizeof some, file.get())) > 0;) bytes.insert(bytes.end(), some, some + n);
    if (std::ferror(file.get())) throw BadFile("cannot be read to its end");
    return bytes;
  }

  /// Reads one entry; where the next one begins.
  size_t entry(const std::vector<unsigned char>& bytes, size_t k) {
    const size_t left = bytes.size() - k;
    if (left < ENTRY) throw BadFile("ends within an entry; compile it again");
    const uint32_t kind = at<uint32_t>(&bytes[k]), name_size = at<uint32_t>(&bytes[k + 4]);
    const uint64_t count = at<uint64_t>(&bytes[k + 8]);
    const size_t unit = kind == 0 ? 8 : 1, name_room = (size_t(name_size) + 7) / 8 * 8;
    if (kind > 1 || name_room > left - ENTRY || count > (left - ENTRY - name_room) / unit)
      throw BadFile("ends within an entry; compile it again");
    const size_t data = k + ENTRY + name_room, room = (size_t(count) * unit + 7) / 8 * 8;
    if (room > bytes.size() - data) throw BadFile("ends within an entry; compile it again");
    const std::string name(bytes.begin() + long(k + ENTRY), bytes.begin() + long(k + ENTRY + name_size));
    if (kind == 0) {
      std::vector<double>& into = numbers[name];
      into.resize(size_t(count));
      if (count) std::memcpy(into.data(), &bytes[data], size_t(count) * 8);
    } else {
      texts[name] = std::string(bytes.begin() + long(data), bytes.begin() + long(data + count));
    }
    return data + room;
  }

  static uint32_t crc32(const unsigned char* p, size_t n) {
    static const std::array<uint32_t, 256> table = [] {
      std::array<uint32_t, 256> t{};
      for (uint32_t i = 0; i < 256; ++i) {
        t[i] = i;
        for (int bit = 0; bit < 8; ++bit) t[i] = t[i] & 1 ? t[i] >> 1 ^ 0xedb88320u : t[i] >> 1;
      }
      return t;
    }();
    uint32_t c = ~0u;
    for (size_t i = 0; i < n; ++i) c = table[(c ^ p[i]) & 0xff] ^ c >> 8;
    return ~c;
  }
};

}  // namespace dpa1
