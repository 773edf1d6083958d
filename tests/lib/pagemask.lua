--- What two healthy copies of a page may differ in: what PostgreSQL changes without WAL. Each mask
--- has its reason beside it; it follows access/common/bufmask.c and the rm_mask functions of
--- PostgreSQL 15, less what only differs while replay is under way.
---
---     local masked = require("tests.lib.pagemask").masked
---     assert(masked(page_of_primary) == masked(page_of_mirror))

local bit = require("bit")
local ffi = require("ffi")

local M = {}

M.BYTES = 8192

local HEADER, ITEM, SEQUENCE_MAGIC = 24, 4, 0x1717
-- PageHeaderData's fields.
local LSN, CHECKSUM, FLAGS, LOWER, UPPER, SPECIAL, PRUNE_XID = 0, 8, 10, 12, 14, 16, 20
-- HeapTupleHeaderData's; the header without its null bitmap has this size.
local CID, INFOMASK, TUPLE_HEADER = 8, 20, 23

local page = ffi.new("uint8_t[?]", M.BYTES)

local function u16(offset)
    return ffi.cast("uint16_t *", page + offset)[0]
end

local function u32(offset)
    return tonumber(ffi.cast("uint32_t *", page + offset)[0])
end

local function clear16(offset, bits)
    local field = ffi.cast("uint16_t *", page + offset)
    field[0] = bit.band(field[0], bit.bnot(bits))
end

local function zero(from, to)
    if to > from and to <= M.BYTES then
        ffi.fill(page + from, to - from)
    end
end

-- lp_off (15 bits), lp_flags (2), lp_len (15) of each line pointer.
local function each_item(fn)
    for at = HEADER, math.min(u16(LOWER), M.BYTES) - ITEM, ITEM do
        local item = u32(at)
        fn(at, bit.band(item, 0x7fff), bit.band(bit.rshift(item, 15), 3), bit.rshift(item, 17))
    end
end

local function mask_header()
    -- Two sessions that set a hint on a clean page at the same time each log its image, and the
    -- page keeps the position of whichever marks the buffer dirty first (MarkBufferDirtyHint); a
    -- replay ends with that of the later record. The images are the same.
    zero(LSN, LSN + 8)
    -- Is computed over all the rest, so it differs if and only if something else does; pg_checksums
    -- says whether it is right.
    zero(CHECKSUM, CHECKSUM + 2)
    -- PD_HAS_FREE_LINES and PD_PAGE_FULL are hints; with checksums the first hint after a
    -- checkpoint is logged as a page image, those after it are not.
    clear16(FLAGS, 3)
    zero(PRUNE_XID, PRUNE_XID + 4) -- a hint, too
    -- A page image leaves out the hole in the page, and replay makes it zeros.
    if u16(LOWER) >= HEADER and u16(UPPER) <= u16(SPECIAL) then
        zero(u16(LOWER), u16(UPPER))
    end
end

local function mask_heap_tuple(_, offset, flags, length)
    if flags ~= 1 or length < TUPLE_HEADER or offset + length > M.BYTES then
        return
    end
    -- HEAP_XMIN_COMMITTED, XMIN_INVALID, XMAX_COMMITTED, XMAX_INVALID are hints. Frozen is the
    -- first two together, and freezing is logged: then they are compared.
    local infomask = u16(offset + INFOMASK)
    local frozen = bit.band(infomask, 0x0300) == 0x0300
    clear16(offset + INFOMASK, frozen and 0x0c00 or 0x0f00)
    -- A command id, and HEAP_COMBOCID that says which kind it is, mean something inside their own
    -- transaction only: replay writes zero.
    clear16(offset + INFOMASK, 0x0020)
    zero(offset + CID, offset + CID + 4)
    -- What fills a tuple up to the alignment is nobody's; an image carries it, a tuple does not.
    local stop = offset + length
    zero(stop, math.min(bit.band(stop + 7, bit.bnot(7)), M.BYTES))
end

local function mask_btree()
    local flags, level = u16(SPECIAL) + 12, u32(u16(SPECIAL) + 8)
    -- BTP_HAS_GARBAGE and LP_DEAD are hints for the next one who needs room; BTP_SPLIT_END and the
    -- cycle id are for a vacuum that runs at the same time.
    clear16(flags, 0x60)
    zero(flags + 2, flags + 4)
    if level == 0 then
        each_item(function(at)
            clear16(at, 0x8000)
            clear16(at + 2, 0x0001)
        end)
    end
end

local function special_bytes()
    return M.BYTES - u16(SPECIAL)
end

--- The page with all that is not logged set to zero. What kind of page it is, is read off the page:
--- what tells the kinds apart is never masked, so pages of different kinds stay different.
---@param text string M.BYTES long
---@return string
function M.masked(text)
    ffi.copy(page, text, M.BYTES)
    if u16(UPPER) == 0 or u16(SPECIAL) > M.BYTES then
        return text
    end
    if special_bytes() == 8 and u32(u16(SPECIAL)) == SEQUENCE_MAGIC then
        -- A sequence logs 32 values ahead: replay holds what the primary may have after a crash.
        zero(0, u16(SPECIAL))
        return ffi.string(page, M.BYTES)
    end
    mask_header()
    if special_bytes() == 0 then
        each_item(mask_heap_tuple)
    elseif special_bytes() == 16 and u16(M.BYTES - 2) < 0xff80 then
        mask_btree()
    end
    return ffi.string(page, M.BYTES)
end

return M
