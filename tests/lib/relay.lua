--- Sends each packet that comes out of a network device back into it, later: a link with a rate,
--- a delay and losses, for kernels that have no netem. FAR is the other end of the device, where
--- the packets are seen; each is sent back under the address that it came from, so that the device
--- takes it for one that has arrived.
---
---     luajit tests/lib/relay.lua NEAR FAR MBIT_S DELAY_MS LOSS
local ffi = require("ffi")
local bit = require("bit")

ffi.cdef [[
struct sockaddr_ll {
    unsigned short family, protocol;
    int device;
    unsigned short hardware;
    unsigned char kind, length, address[8];
};
struct timespec { long s, ns; };
struct pollfd { int fd; short events, revents; };
struct ethtool { char name[16]; void *data; char rest[16]; };
struct ring { unsigned block_bytes, blocks, frame_bytes, frames; };
struct frame { volatile unsigned status; unsigned length, kept; unsigned short start; };
int socket(int domain, int type, int protocol);
int bind(int fd, const void *address, unsigned length);
int ioctl(int fd, unsigned long request, void *argument);
int setsockopt(int fd, int level, int name, const void *value, unsigned length);
unsigned if_nametoindex(const char *name);
void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset);
long send(int fd, const void *buffer, size_t size, int flags);
int poll(struct pollfd *files, unsigned long count, int timeout_ms);
int clock_gettime(int clock, struct timespec *now);
char *strerror(int number);
]]

local PACKET, RAW, DGRAM, INET, MONOTONIC = 17, 3, 2, 2, 1
-- In the order of the network; incoming packets only, since it is not "all".
local IPV4 = 0x0008
local READABLE = 1
-- linux/if_packet.h, sys/mman.h: a socket's own buffer is soon full when this program is not run
-- for a moment; a ring has room for what a fast link brings meanwhile.
local OF_PACKETS, VERSION, RECEIVE_RING, VERSION_2, OURS, KERNELS = 263, 10, 5, 1, 1, 0
local READ_WRITE, SHARED = 3, 1
local RING = { frame_bytes = 2048, frames = 8192, block_bytes = 65536, blocks = 256 }
-- linux/sockios.h, linux/ethtool.h: neither checksums nor large packets are left to a device.
local ETHTOOL = 0x8946
local SET_SCATTER, SET_TX_CHECKSUMS, SET_TSO, SET_GSO = 0x19, 0x17, 0x1f, 0x24

-- What waits for the rate before packets are lost: as much as a router holds.
local QUEUE_S = 0.05
local QUEUE_MIN_BYTES = 65536

local function must(what, result)
    if result < 0 then
        error(what .. ": " .. ffi.string(ffi.C.strerror(ffi.errno())), 2)
    end
    return result
end

local function plain(device)
    local fd = must("socket", ffi.C.socket(INET, DGRAM, 0))
    for _, what in ipairs({ SET_TSO, SET_GSO, SET_TX_CHECKSUMS, SET_SCATTER }) do
        local value = ffi.new("uint32_t[2]", what, 0)
        local request = ffi.new("struct ethtool")
        request.name, request.data = device, value
        must("ethtool " .. device, ffi.C.ioctl(fd, ETHTOOL, request))
    end
end

-- A socket and its ring.
local function open(device)
    local fd = must("socket", ffi.C.socket(PACKET, RAW, IPV4))
    local version, ring = ffi.new("int[1]", VERSION_2), ffi.new("struct ring", RING)
    must("version", ffi.C.setsockopt(fd, OF_PACKETS, VERSION, version, 4))
    must("ring", ffi.C.setsockopt(fd, OF_PACKETS, RECEIVE_RING, ring, ffi.sizeof(ring)))
    local memory = ffi.C.mmap(nil, RING.blocks * RING.block_bytes, READ_WRITE, SHARED, fd, 0)
    local address = ffi.new("struct sockaddr_ll")
    address.family, address.protocol = PACKET, IPV4
    address.device = ffi.C.if_nametoindex(device)
    must("bind to " .. device, ffi.C.bind(fd, address, ffi.sizeof(address)))
    return fd, ffi.cast("uint8_t *", memory)
end

local time = ffi.new("struct timespec")
local function now()
    ffi.C.clock_gettime(MONOTONIC, time)
    return tonumber(time.s) + tonumber(time.ns) / 1e9
end

-- What is on its way, by destination: each way has the rate to itself, and its packets leave in the
-- order in which they came. `free` is when what was sent before is through.
local ways = {}

local function way_of(packet)
    -- The third byte of the destination's address: hosts differ in it.
    local to = packet[32]
    ways[to] = ways[to] or { first = 1, last = 0, free = 0 }
    return ways[to]
end

-- When it arrives; nil when there is no room for it.
local function arrival(way, size, link)
    local at = now()
    if link.bytes_s == 0 then
        return at + link.delay_s
    end
    local start = math.max(at, way.free)
    local room = math.max(QUEUE_MIN_BYTES, link.bytes_s * QUEUE_S)
    if (start - at) * link.bytes_s > room then
        return nil
    end
    way.free = start + size / link.bytes_s
    return way.free + link.delay_s
end

-- What comes out is for who has sent it. (Strings would do, but LuaJIT's compiler moves
-- ffi.string() across what changes the bytes.)
local function turned_round(packet, size)
    local bytes = ffi.new("uint8_t[?]", size)
    ffi.copy(bytes, packet + 6, 6)
    ffi.copy(bytes + 6, packet, 6)
    ffi.copy(bytes + 12, packet + 12, size - 12)
    return bytes
end

local function take(packet, size, link)
    local way = way_of(packet)
    local at = math.random() >= link.loss and arrival(way, size, link)
    if at then
        way.last = way.last + 1
        way[way.last] = { at = at, bytes = turned_round(packet, size), size = size }
    end
end

local next_frame = 0

local function take_all(memory, link)
    while true do
        local bytes = memory + next_frame * RING.frame_bytes
        local frame = ffi.cast("struct frame *", bytes)
        if bit.band(frame.status, OURS) == 0 then
            return
        end
        take(bytes + frame.start, frame.kept, link)
        frame.status = KERNELS
        next_frame = (next_frame + 1) % RING.frames
    end
end

-- Sends what has arrived on its way; says how many seconds the next packet has left.
local function give(fd, way)
    local at = now()
    while way.first <= way.last do
        local packet = way[way.first]
        if packet.at > at then
            return packet.at - at
        end
        ffi.C.send(fd, packet.bytes, packet.size, 0)
        way[way.first] = nil
        way.first = way.first + 1
    end
    return math.huge
end

local function give_all(fd)
    local wait_s = math.huge
    for _, way in pairs(ways) do
        wait_s = math.min(wait_s, give(fd, way))
    end
    return wait_s < math.huge and math.ceil(wait_s * 1000) or -1
end

local near, far, mbit_s, delay_ms, loss = unpack(arg)
local link = { bytes_s = mbit_s * 1e6 / 8, delay_s = delay_ms / 1000, loss = tonumber(loss) }
plain(near)
local fd, memory = open(far)
io.stdout:write("relaying\n")
io.stdout:flush()
local files = ffi.new("struct pollfd", { fd = fd, events = READABLE })
while true do
    local wait_ms = give_all(fd)
    if ffi.C.poll(files, 1, wait_ms) > 0 then
        assert(bit.band(files.revents, READABLE) ~= 0, "the device is gone")
        take_all(memory, link)
    end
end
