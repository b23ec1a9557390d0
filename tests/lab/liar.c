/* Drives the balloon in place of Linux's driver, and tells QEMU whatever it is told to.
 *
 * usage: liar PAGES TAG=VALUE...     until it is ended; PAGES is the size of the balloon, VALUE has
 * 64 bits, and no TAG=VALUE at all is an answer
 *
 * Speaks to a legacy or transitional virtio PCI device through its I/O ports, and only by its
 * statistics queue. Answers each of QEMU's requests with the same records.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define HUGE_PAGE (512 * PAGE)
#define MOST_RECORDS (PAGE / sizeof(struct record))

/* virtio 1.0, 4.1.4.8 "Legacy Interfaces: A Note on PCI Device Layout" */
enum { FEATURES = 0, OUR_FEATURES = 4, QUEUE_PFN = 8, QUEUE_SIZE = 12, QUEUE = 14, NOTIFY = 16, STATUS = 18, ACTUAL = 24 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4 };
enum { STATS_QUEUE = 2, F_STATS = 1 << 1, NO_INTERRUPT = 1 };

struct record {
  uint16_t tag;
  uint64_t value;
} __attribute__((packed));

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags, next;
};

static volatile sig_atomic_t ended;

static void end(int number) {
  (void)number;
  ended = 1;
}

static _Noreturn void die(const char *why) {
  fprintf(stderr, "liar: %s\n", why);
  exit(1);
}

static _Noreturn void die_of_errno(const char *what) {
  fprintf(stderr, "liar: %s: %s\n", what, strerror(errno));
  exit(1);
}

static unsigned long number_in(const char *device, const char *name) {
  char path[512], text[64];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", device, name);
  FILE *file = fopen(path, "r");
  if (!file || !fgets(text, sizeof text, file)) die_of_errno(path);
  fclose(file);
  return strtoul(text, NULL, 16);
}

/* The first I/O port of the balloon. Its first region is the first line of "resource". */
static unsigned short find_ports(void) {
  DIR *devices = opendir("/sys/bus/pci/devices");
  if (!devices) die_of_errno("/sys/bus/pci/devices");
  for (struct dirent *entry; (entry = readdir(devices));)
    if (entry->d_name[0] != '.' && number_in(entry->d_name, "vendor") == 0x1af4 &&
        number_in(entry->d_name, "device") == 0x1002)
      return (unsigned short)number_in(entry->d_name, "resource");
  die("no legacy balloon");
}

/* A huge page, which is in one piece in the guest's memory, too, and its address there. */
static uint8_t *take_memory(uint64_t *address) {
  FILE *pages = fopen("/proc/sys/vm/nr_hugepages", "w");
  if (!pages || fputs("1", pages) < 0 || fclose(pages)) die_of_errno("/proc/sys/vm/nr_hugepages");
  uint8_t *memory = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) die_of_errno("mmap");
  uint64_t entry;
  int pagemap = open("/proc/self/pagemap", O_RDONLY);
  if (pagemap < 0 || pread(pagemap, &entry, sizeof entry, (off_t)((uintptr_t)memory / PAGE * sizeof entry)) != sizeof entry)
    die_of_errno("/proc/self/pagemap");
  *address = (entry & ((1ull << 55) - 1)) * PAGE;
  return memory;
}

int main(int count, char **words) {
  if (count < 2) die("no size of the balloon");
  unsigned pages = (unsigned)strtoul(words[1], NULL, 0);
  if ((size_t)count - 2 > MOST_RECORDS) die("too many records");
  if (iopl(3)) die_of_errno("iopl");
  unsigned short ports = find_ports();

  uint64_t address;
  uint8_t *memory = take_memory(&address);

  struct record *records = (struct record *)memory;
  for (int i = 2; i < count; i++) {
    char *value = strchr(words[i], '=');
    if (!value) die("not TAG=VALUE");
    records[i - 2].tag = (uint16_t)strtoul(words[i], NULL, 0);
    records[i - 2].value = strtoull(value + 1, NULL, 0);
  }

  signal(SIGTERM, end);
  outb(0, ports + STATUS);
  outb(ACKNOWLEDGE | DRIVER, ports + STATUS);
  if (!(inl(ports + FEATURES) & F_STATS)) die("no statistics queue");
  outl(F_STATS, ports + OUR_FEATURES);
  outw(STATS_QUEUE, ports + QUEUE);
  unsigned size = inw(ports + QUEUE_SIZE);
  if (!size) die("no size of the queue");

  /* After the records the queue: at most 32768 descriptors, and what belongs to them. */
  struct descriptor *descriptor = (struct descriptor *)(memory + PAGE);
  volatile uint16_t *available = (uint16_t *)(descriptor + size);
  volatile uint16_t *used =
      (uint16_t *)(((uintptr_t)(available + 3 + size) + PAGE - 1) / PAGE * PAGE);
  descriptor->address = address;
  /* A buffer of no bytes would break the queue; a part of a record is no record. */
  descriptor->length = count > 2 ? (uint32_t)((size_t)(count - 2) * sizeof *records) : 1;
  available[0] = NO_INTERRUPT;
  outl((uint32_t)(address / PAGE) + 1, ports + QUEUE_PFN);
  outb(ACKNOWLEDGE | DRIVER | DRIVER_OK, ports + STATUS);
  outl(pages, ports + ACTUAL);

  for (uint16_t answers = 1; !ended; answers++) {
    available[1] = answers;
    __sync_synchronize();
    outw(STATS_QUEUE, ports + NOTIFY);
    /* QEMU gives the buffer back when it asks again. */
    while (!ended && used[1] != answers) usleep(20000);
  }
  outb(0, ports + STATUS);
  return 0;
}
