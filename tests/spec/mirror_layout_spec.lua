local layout = require("lib.mirror_layout")

-- "a:6000 a:6001 b:6000" as rows, with contents in this order.
local function primaries(text)
    local rows = {}
    for host, port in text:gmatch("(%w+):(%d+)") do
        table.insert(rows, { content = #rows, hostname = host, address = host,
            port = tonumber(port), datadir = ("/data/primary/gpseg%d"):format(#rows) })
    end
    return rows
end

local function all()
    return true
end

local function make(rows, options)
    local full = { offset = 1000, prefix = "gpseg", lacks = all, locations = {} }
    for i = 1, layout.locations(rows) do
        full.locations[i] = "/data/m" .. i
    end
    for key, value in pairs(options or {}) do
        full[key] = value
    end
    return layout.make(rows, full.taken or rows, full)
end

local function told(places)
    local words = {}
    for i, place in ipairs(places) do
        words[i] = ("%d=%s:%d:%s"):format(place.content, place.hostname, place.port, place.datadir)
    end
    return table.concat(words, " ")
end

local EVEN = "a:6000 a:6001 b:6000 b:6001 c:6000 c:6001"

describe("mirror_layout, group,", function()
    it("puts all mirrors of a host on the next one", function()
        assert.are.equal("0=b:7000:/data/m1/gpseg0 1=b:7001:/data/m2/gpseg1 " ..
            "2=c:7000:/data/m1/gpseg2 3=c:7001:/data/m2/gpseg3 " ..
            "4=a:7000:/data/m1/gpseg4 5=a:7001:/data/m2/gpseg5", told(make(primaries(EVEN))))
    end)

    it("is by the hosts' names, not by the order of the rows", function()
        assert.are.equal("0=a:7000:/data/m1/gpseg0 1=b:7000:/data/m1/gpseg1",
            told(make(primaries("b:6000 a:6000"))))
    end)

    it("with uneven hosts uses as many locations as it needs", function()
        local rows = primaries("a:6000 a:6001 a:6002 b:6000")
        assert.are.equal(3, layout.locations(rows))
        assert.are.equal("0=b:7000:/data/m1/gpseg0 1=b:7001:/data/m2/gpseg1 " ..
            "2=b:7002:/data/m3/gpseg2 3=a:7000:/data/m1/gpseg3", told(make(rows)))
    end)

    it("with one host leaves them there", function()
        assert.are.equal("0=a:7000:/data/m1/gpseg0 1=a:7001:/data/m2/gpseg1",
            told(make(primaries("a:6000 a:6001"))))
    end)

    it("alternates the addresses of a host with several networks", function()
        local rows = {}
        for i, host in ipairs({ "a", "a", "b", "b" }) do
            table.insert(rows, { content = i - 1, hostname = host, datadir = "/p" .. i,
                address = host .. (i % 2), port = 6000 + i % 2 })
        end
        local to = {}
        for _, place in ipairs(make(rows)) do
            to[place.content] = place.address
        end
        assert.are.same({ [0] = "b0", [1] = "b1", [2] = "a0", [3] = "a1" }, to)
    end)
end)

describe("mirror_layout, spread,", function()
    it("puts each mirror of a host on another one", function()
        assert.are.equal("0=b:7000:/data/m1/gpseg0 1=c:7001:/data/m1/gpseg1 " ..
            "2=c:7000:/data/m2/gpseg2 3=a:7001:/data/m1/gpseg3 " ..
            "4=a:7000:/data/m2/gpseg4 5=b:7001:/data/m2/gpseg5",
            told(make(primaries(EVEN), { spread = true })))
    end)

    it("never puts one on its primary's host, nor two of a host on the same", function()
        for hosts = 2, 6 do
            for each = 1, hosts - 1 do
                local rows = {}
                for h = 1, hosts do
                    -- Uneven: the first host has one less, where it can.
                    for i = 1, h == 1 and math.max(each - 1, 1) or each do
                        table.insert(rows, { content = #rows, hostname = "h" .. h,
                            address = "h" .. h, port = 6000 + i, datadir = "/p" .. #rows })
                    end
                end
                local places, seen = assert(make(rows, { spread = true })), {}
                assert.are.equal(#rows, #places)
                for _, place in ipairs(places) do
                    local from = rows[place.content + 1].hostname
                    assert.are_not.equal(from, place.hostname)
                    assert.is_nil(seen[from .. place.hostname])
                    seen[from .. place.hostname] = true
                end
            end
        end
    end)

    it("needs more hosts than a host has primaries", function()
        local places, problem = make(primaries("a:6000 a:6001 b:6000 b:6001"), { spread = true })
        assert.is_nil(places)
        assert.matches("there are 2 hosts and up to 2 primaries on one", problem)
        assert.is_table(make(primaries("a:6000 b:6000"), { spread = true }))
    end)
end)

describe("mirror_layout", function()
    it("takes the next port where the offset's is somebody's", function()
        local rows = primaries("a:6000 b:7000 b:7001")
        assert.are.equal("0=b:7002:/data/m1/gpseg0 1=a:8000:/data/m1/gpseg1 " ..
            "2=a:8001:/data/m2/gpseg2", told(make(rows)))
    end)

    it("refuses ports that are none", function()
        local _, problem = make(primaries("a:65000 b:6000"))
        assert.matches("content 0 would have port 66000", problem)
        _, problem = make(primaries("a:6000 b:6000"), { offset = -6000 })
        assert.matches("would have port 0", problem)
    end)

    it("refuses a directory that is somebody's, or lies in one", function()
        local rows = primaries("a:6000")
        local _, problem = make(rows, { locations = { "/data/primary" } })
        assert.matches("/data/primary/gpseg0 on host a, which is in use", problem, 1, true)
        _, problem = make(rows, { locations = { "/data/primary/gpseg0/x" } })
        assert.matches("in use", problem, 1, true)
    end)

    it("refuses too few locations, and too many", function()
        for _, list in ipairs({ {}, { "/a" }, { "/a", "/b", "/c" } }) do
            local _, problem = make(primaries("a:6000 a:6001"), { locations = list })
            assert.matches("2 locations are needed, .* not " .. #list, problem)
        end
    end)

    it("finds the same places whichever mirrors there are already", function()
        local rows = primaries("a:6000 b:6000 c:6000 c:6001 d:6000")
        for _, spread in ipairs({ true, false }) do
            local whole = make(rows, { spread = spread })
            for missing = 0, #rows - 1 do
                local taken = { unpack(rows) }
                for _, place in ipairs(whole) do
                    if place.content ~= missing then
                        table.insert(taken, place)
                    end
                end
                local one = make(rows, { spread = spread, taken = taken, lacks = function(content)
                    return content == missing
                end })
                assert.are.same({ whole[missing + 1] }, one)
            end
        end
    end)

    it("names directories as the coordinator's is named", function()
        assert.are.equal("gpseg", layout.prefix("/data/coordinator/gpseg-1"))
        assert.are.equal("sales", layout.prefix("/data/sales-1/"))
        assert.are.equal("gp", layout.prefix("/data/coordinator"))
        assert.are.equal("gp", layout.prefix("/data/-1"))
    end)
end)
