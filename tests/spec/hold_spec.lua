--- Whose lease a content's is, when several look at it at once. The catalog's own part is in
--- tests/cluster/catalog_spec.lua.

local hold = require("lib.hold")
local mr = require("moonrise")

local BUSY = mr.error("busy", "content 0 is in the hands of somebody")

-- What one who takes a lease is answered, call by call, and the leases that he finds in between.
local function catalog(answers, leases)
    local cat = { asked = {} }
    function cat.call(_, fn)
        table.insert(cat.asked, fn)
        local answer = table.remove(answers, 1)
        if answer == BUSY then
            return nil, BUSY
        end
        return answer
    end
    function cat.end_lease(_, token)
        table.insert(cat.asked, "end_lease")
        table.insert(cat.asked, token)
        return true
    end
    function cat.leases()
        return table.remove(leases, 1) or {}
    end
    return cat
end

-- Its process id is above the greatest that there can be.
local function lease(holder, intent)
    return { content = 0, token = 7, intent = intent or "recover",
        holder = holder or (hold.holder():gsub("pid %d+", "pid 99999999")) }
end

local function take(cat)
    return hold.take(cat, 0, "recover", "copying")
end

describe("a lease", function()
    it("that is free is taken", function()
        local cat = catalog({ 8 }, {})
        assert.are.equal(8, take(cat))
        assert.are.same({ "lease_take" }, cat.asked)
    end)

    it("of a command that was killed is ended first", function()
        local cat = catalog({ BUSY, 8 }, { { lease() } })
        assert.are.equal(8, take(cat))
        assert.are.same({ "lease_take", "end_lease", 7, "lease_take" }, cat.asked)
    end)

    it("that somebody else has just ended is taken", function()
        assert.are.equal(8, take(catalog({ BUSY, 8 }, { {} })))
    end)

    it("of a process that lives, or of another host, is left to it", function()
        for _, holder in ipairs({ hold.holder(), "me@elsewhere pid 99999999 boot 00000000" }) do
            local cat = catalog({ BUSY, 8 }, { { lease(holder) } })
            assert.are.same({ nil, BUSY }, { take(cat) })
            assert.are.same({ "lease_take" }, cat.asked)
        end
    end)

    it("of another user's process that /proc hides is left to it", function()
        local kill, read_file = mr.kill, mr.read_file
        finally(function()
            mr.kill, mr.read_file = kill, read_file
        end)
        function mr.read_file(path, most)
            return not path:match("^/proc/%d+/stat$") and read_file(path, most) or nil
        end
        for code, gone in pairs({ permission = false, notfound = true }) do
            function mr.kill()
                return nil, mr.error(code, "the system says so")
            end
            assert.are.equal(gone, hold.process_gone("4242"))
        end
    end)

    it("that was left is not ended when it is not tried for again", function()
        local cat = catalog({ BUSY, BUSY, BUSY, 8 }, { { lease() }, { lease() }, { lease() } })
        assert.are.same({ nil, BUSY }, { take(cat) })
        assert.are.same({ "lease_take", "end_lease", 7, "lease_take", "end_lease", 7,
            "lease_take" }, cat.asked)
    end)

    it("of a handover is left to who finishes it", function()
        local cat = catalog({ BUSY, 8 }, { { lease(nil, "handover") } })
        assert.are.same({ nil, BUSY }, { take(cat) })
    end)

    it("that others take again and again is given up", function()
        local cat = catalog({ BUSY, BUSY, BUSY, 8 }, { {}, {}, {} })
        assert.are.same({ nil, BUSY }, { take(cat) })
    end)
end)
