/// The version of the product.
package let productVersion = "0.1.0"
