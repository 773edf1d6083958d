--- The frame around runbooks: users' own, found and run by the program itself.
local place_of = require("tests.lib.place")

describe("a user's runbook", function()
    local place

    setup(function()
        place = place_of.new()
        place:must({ "mkdir", "-p", "home/.config/moonrise/scripts" })
    end)

    teardown(place_of.close_all)

    local function moonrise(...)
        return place:run({ place_of.moonrise(), ... })
    end

    local function write(name, text)
        return place:write("home/.config/moonrise/scripts/" .. name .. ".lua", text)
    end

    it("that raises while it loads does not take the others' help away", function()
        write("mine", 'error("boom")')
        write("yours", 'return { summary = "is fine", main = function() return 0 end }')
        local result = moonrise("--help")
        assert.equal(0, result.code)
        assert.matches("\n  mine +%(does not load%)\n", result.out)
        assert.matches("\n  yours +is fine\n", result.out)
        assert.matches("\n  state +", result.out)
        result = moonrise("mine")
        assert.equal(1, result.code)
        assert.matches("mine.lua:1: boom", result.err, 1, true)
    end)

    it("has the causes of its errors told, each of them once", function()
        write("fails", [[
            local mr = require("moonrise")
            return { main = function()
                local first = mr.error("io", "the disk is full")
                local second = mr.error("child", "it ended: the disk is full", { cause = first })
                local third = mr.error("refused", "no room", { cause = second })
                return nil, mr.error("refused", "it was not started",
                    { cause = third, hint = "make room" })
            end }]])
        local result = moonrise("fails")
        assert.equal(1, result.code)
        assert.equal("[ERROR]:-it was not started\n[ERROR]:-  cause: no room\n" ..
            "[ERROR]:-  cause: it ended: the disk is full\n[ERROR]:-  make room\n", result.err)
    end)
end)
