--- JSON.
local mr = require("moonrise")

local function round(value)
    return mr.check(mr.json_decode(mr.json_encode(value)))
end

describe("json_encode", function()
    it("says what Lua values are", function()
        local cases = {
            { true, "true" }, { mr.null, "null" }, { 1, "1" }, { -0.5, "-0.5" },
            { 1e300, "1e+300" },
            { 2 ^ 53, "9007199254740992" }, { "a", '"a"' }, { {}, "{}" }, { mr.json_array(), "[]" },
            { { 1, "b", { c = false } }, '[1,"b",{"c":false}]' },
            { { b = 1, a = 2, ["c d"] = mr.null }, '{"a":2,"b":1,"c d":null}' },
        }
        for _, case in ipairs(cases) do
            assert.equals(case[2], mr.json_encode(case[1]))
        end
        assert.equals("null", mr.json_encode(nil))
    end)

    it("escapes what must be escaped", function()
        assert.equals([["\"\\\u0000\u000a\u007f/é😀"]], mr.json_encode("\"\\\0\n\127/é😀"))
        assert.equals('"a\239\191\189b\239\191\189"', mr.json_encode("a\255b\195"))
        assert.equals('"\239\191\189\239\191\189\239\191\189"', mr.json_encode("\237\160\128"))
    end)

    it("gives numbers back exactly", function()
        for _, number in ipairs({ 0.1, 1 / 3, 2 ^ 53 - 1, 5e-324, 1.7976931348623157e308,
            123456789.125 }) do
            assert.equals(number, round(number))
        end
    end)

    it("raises on what JSON cannot say", function()
        local cycle = {}
        cycle.cycle = cycle
        for _, value in ipairs({ print, { print }, 0 / 0, 1 / 0, { 1, 2, a = 3 }, { [2] = 1 },
            { [1.5] = 1 }, { 1, 2, nil, 4, [9] = 9 }, { [true] = 1 }, cycle, mr.queue(),
            coroutine.create(print), { ["a\0b"] = 1 } }) do
            assert.has_error(function()
                mr.json_encode(value)
            end)
        end
    end)
end)

describe("json_decode", function()
    it("reads what encode wrote", function()
        local value = {
            list = { 1, 2, { 3 } }, empty = {}, text = "x\0y ü", yes = true, no = false,
            nested = { { a = { b = { c = {} } } } },
        }
        assert.same(value, round(value))
        assert.equals(mr.null, round({ a = mr.null }).a)
        assert.equals("[]", mr.json_encode(round(mr.json_array({}))))
        assert.equals("{}", mr.json_encode(round({})))
    end)

    it("says where text is wrong", function()
        for _, text in ipairs({ "", "{", "[1,]", '{"a":1,"a":2}', "nul", '"\255"', "1 2", "[1e999]",
            ("["):rep(100) .. ("]"):rep(100), ("["):rep(100000), "\0" }) do
            local value, err = mr.json_decode(text)
            assert.is_nil(value)
            assert.equals("format", err.code)
            assert.matches("^JSON", err.message)
        end
        assert.matches("line 2", select(2, mr.json_decode("{\n'")).message)
    end)

    it("leaves nothing on a stack that is used up by deep values", function()
        local text = ("["):rep(60) .. ("]"):rep(60)
        for _ = 1, 1000 do
            assert.is_table(mr.json_decode(text))
        end
    end)
end)
